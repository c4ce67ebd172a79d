//! Policies and the labels of namespaces.

use std::{collections::BTreeMap, sync::Arc};

use tracing::info;

use super::{
    Control, Created, Error, NamespaceView, PolicyView,
    plan::{self, Applied, removal},
};
use crate::policy::read;

impl Control {
    /// Has the policies in a text (YAML or JSON) be there as they are, all of them or
    /// none; waits until they hold, for established connections too. Returns what
    /// was done to each.
    pub async fn apply_policies(
        &self,
        text: &str,
    ) -> Result<(Vec<(PolicyView, Applied)>, Created), Error> {
        let policies = read::read(text).map_err(super::Invalid::from)?;
        let policies: Vec<_> = policies.into_iter().map(Arc::new).collect();
        plan::check_amount(&policies)?;
        self.to_the_end(|control| async move {
            let done = control
                .change(|basis| plan::apply_policies(basis, &policies))
                .await?;
            for (policy, applied) in policies.iter().zip(&done.value) {
                let (namespace, name) = policy.key();
                if *applied != Applied::Unchanged {
                    info!(namespace, name, ?applied, "policy applied");
                }
            }
            control.follow(done.picture, "the policy").await?;
            let picture = control.picture();
            let views = PolicyView::all(&picture.contents.desired, policies);
            Ok((views.into_iter().zip(done.value).collect(), done.created))
        })
        .await
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
