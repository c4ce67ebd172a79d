//! Policies and the labels of namespaces.

use std::{collections::BTreeMap, sync::Arc};

use tracing::info;

use super::{
    Control, Created, Error, NamespaceView, PolicyView,
    plan::{self, Applied, Basis, removal},
};
use crate::policy::{
    document::NetworkPolicy,
    read::{self, ReadError},
};

impl Control {
    /// Has the policies in a text (YAML or JSON) be there as they are; waits until they
    /// hold, for established connections too. Returns what was done to each. All of
    /// them or none, unless they are too many for one transaction.
    pub async fn apply_policies(
        &self,
        text: String,
    ) -> Result<(Vec<(PolicyView, Applied)>, Created), Error> {
        // Megabytes of text are not to keep others waiting.
        let policies = tokio::task::spawn_blocking(move || read::read(&text)).await;
        let policies = policies.unwrap_or(Err(ReadError::Nothing));
        let portions = plan::portions(policies.map_err(super::Invalid::from)?)?;
        self.to_the_end(|control| async move {
            let (done, picture, created) = control.store_policies(portions).await?;
            control.follow(picture, "the policy").await?;
            let picture = control.picture();
            let (policies, applied): (Vec<_>, Vec<_>) = done.into_iter().unzip();
            let views = PolicyView::all(&picture.contents.desired, policies);
            Ok((views.into_iter().zip(applied).collect(), created))
        })
        .await
    }

    /// Stores policies, a portion at a time. Returns what was done to each, the number
    /// of the picture that has them, and whether any is new.
    async fn store_policies(
        &self,
        portions: Vec<Vec<Arc<NetworkPolicy>>>,
    ) -> Result<(Vec<(Arc<NetworkPolicy>, Applied)>, u64, Created), Error> {
        let picture = self.picture();
        let of = portions.iter().map(Vec::len).sum();
        if portions.len() > 1 {
            let basis = Basis {
                contents: &picture.contents,
                node: &self.inner.info.node,
                attempt: 0,
            };
            // What can be known before is: that there is room for all.
            plan::apply_policies(basis, &portions.concat())?;
        }
        let (mut stored, mut created) = (Vec::with_capacity(of), Created::Existing);
        let mut picture = picture.number;
        for portion in portions {
            let done = self.change(|basis| plan::apply_policies(basis, &portion));
            let done = done.await.map_err(|source| match stored.len() {
                0 => source,
                applied => Error::Partly {
                    applied,
                    of,
                    source: Box::new(source),
                },
            })?;
            for (policy, applied) in portion.iter().zip(&done.value) {
                let (namespace, name) = policy.key();
                if *applied != Applied::Unchanged {
                    info!(namespace, name, ?applied, "policy applied");
                }
            }
            if done.created == Created::New {
                created = Created::New;
            }
            picture = done.picture;
            stored.extend(portion.into_iter().zip(done.value));
        }
        Ok((stored, picture, created))
    }

    /// Removes a policy.
    pub async fn remove_policy(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let key = (namespace.to_owned(), name.to_owned());
        self.to_the_end(|control| async move {
            let done = control
                .change(|basis| Ok(removal(plan::remove_policy(basis, &key)?)))
                .await?;
            let (namespace, name) = key;
            info!(namespace, name, "policy removed");
            control.follow(done.picture, "the policy's removal").await
        })
        .await
    }

    /// Gives a namespace these labels instead of those it has.
    pub async fn label_namespace(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(NamespaceView, Created), Error> {
        let name = name.to_owned();
        self.to_the_end(|control| async move {
            let done = control
                .change(|basis| plan::label_namespace(basis, &name, &labels))
                .await?;
            info!(namespace = name, ?labels, "namespace labelled");
            control.follow(done.picture, "the labels").await?;
            Ok((control.namespace(&name), done.created))
        })
        .await
    }
}
