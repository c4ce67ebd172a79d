//! Endpoints: attaching, detaching, and what can change in between.

use std::sync::Arc;

use tracing::{info, warn};

use super::{
    AttachSpec, Conflict, Control, Created, EndpointChange, EndpointView, Error, census,
    endpoint_id, plan,
    plan::{Basis, removal},
};
use crate::{
    model::{Desired, Endpoint, NetnsRef},
    reconcile::EndpointState,
    store::Change,
};

impl Control {
    /// Attaches a container's interface, or finds it attached; waits until it
    /// works. If it cannot be made to work, nothing of it is kept: an endpoint
    /// that was there before is as it was.
    pub async fn attach(&self, spec: AttachSpec) -> Result<(EndpointView, Created), Error> {
        self.to_the_end(|control| async move { control.attach_to_the_end(spec).await })
            .await
    }

    /// Removes an endpoint by ID, and its interface; its address is free, and
    /// remembered in case the same container comes back.
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.to_the_end(|control| async move {
            let _turn = control.inner.turns.take(&id).await;
            let done = control
                .change(|basis| Ok(removal(plan::detach(basis, &id)?)))
                .await?;
            info!(endpoint = id, "endpoint detached");
            control.follow(done.picture, "the detachment").await
        })
        .await
    }

    /// Changes what can change about an endpoint while it is attached.
    pub async fn change_endpoint(
        &self,
        id: &str,
        change: EndpointChange,
    ) -> Result<EndpointView, Error> {
        let id = id.to_owned();
        self.to_the_end(|control| async move {
            let _turn = control.inner.turns.take(&id).await;
            let done = control
                .change(|basis| plan::change_endpoint(basis, &id, change.clone()))
                .await?;
            Ok(control.view_endpoint(&control.picture().contents.desired, &done.value)?)
        })
        .await
    }

    async fn attach_to_the_end(self, spec: AttachSpec) -> Result<(EndpointView, Created), Error> {
        spec.check()?;
        self.network(&spec.network)?;
        let netns = self.inner.host.netns(spec.netns.clone()).await?;
        let id = endpoint_id(&self.container_id(&spec, &netns), spec.ifname());
        let _turn = self.inner.turns.take(&id).await;
        let mut before = Before::of(&self.picture().contents.desired, &id);
        if let Before::Here(other) = &before
            && self.has_lost_its_number(other, &spec, &netns).await?
        {
            info!(endpoint = id, "its network namespace is gone; detached");
            self.change(|basis| Ok(removal(plan::detach(basis, &id)?)))
                .await?;
            before = Before::Nowhere;
        }
        let observed = Arc::clone(&self.inner.observed.borrow());
        let wired = |id: &str| {
            matches!(
                observed.report.endpoints.get(id),
                Some(EndpointState::Ready { .. })
            )
        };
        // A namespace made anew at the same path may have been wired there already.
        let here = matches!(&before, Before::Here(before) if before.netns == netns
            || (before.netns.path == netns.path && wired(&id)));
        if !here {
            self.check_no_interface(&netns, spec.ifname()).await?;
        }
        let done = self
            .change(|basis| plan::attach(basis, &spec, netns.clone(), wired))
            .await?;
        let endpoint = done.value;
        if let Err(error) = self.wired(&endpoint, done.picture).await {
            warn!(endpoint = endpoint.id, "attach undone: {error}");
            self.undo_attach(&endpoint.id, before).await;
            return Err(error);
        }
        if done.created == Created::New {
            let (id, network, ip) = (&endpoint.id, &endpoint.network, endpoint.ip);
            info!(endpoint = id, network, %ip, "endpoint attached");
        }
        let view = self.view_endpoint(&self.picture().contents.desired, &endpoint)?;
        Ok((view, done.created))
    }

    fn container_id(&self, spec: &AttachSpec, netns: &NetnsRef) -> String {
        let picture = self.picture();
        let basis = Basis {
            contents: &picture.contents,
            node: &self.inner.info.node,
            attempt: 0,
        };
        plan::container_id(basis, spec, netns)
    }

    /// Whether an endpoint that is named after its namespace's number is another's,
    /// to which the kernel has given the number of one that is gone: that is at
    /// another path, and without the interface. Nothing of the one is to be the
    /// other's.
    async fn has_lost_its_number(
        &self,
        endpoint: &Endpoint,
        spec: &AttachSpec,
        netns: &NetnsRef,
    ) -> Result<bool, Error> {
        if spec.container_id.is_some() || endpoint.netns.path == netns.path {
            return Ok(false);
        }
        Ok(!self.has_interface(netns, spec.ifname()).await?)
    }

    async fn has_interface(&self, netns: &NetnsRef, ifname: &str) -> Result<bool, Error> {
        let found = self.inner.host.has_interface(netns, ifname).await;
        let what = "the container's interfaces";
        found.map_err(|source| Error::Host { what, source })
    }

    /// Refuses a namespace that has an interface of that name, unless it is an
    /// endpoint's, which the plan will say more precisely.
    async fn check_no_interface(&self, netns: &NetnsRef, ifname: &str) -> Result<(), Error> {
        let found = self.has_interface(netns, ifname).await?;
        let picture = self.picture();
        let desired = &picture.contents.desired;
        let mut endpoints = desired.endpoints.values();
        let ours = |e: &Endpoint| e.netns.inode == netns.inode && e.ifname == ifname;
        if !found || endpoints.any(ours) {
            return Ok(());
        }
        let (netns, ifname) = (netns.path.display().to_string(), ifname.to_owned());
        Err(Conflict::IfnameForeign { netns, ifname }.into())
    }

    /// Puts the endpoint back to what it was before a failed attach. If the
    /// store fails here too, the log says so, and the endpoint stays listed as
    /// failed until it is detached.
    async fn undo_attach(&self, id: &str, before: Before) {
        let undone = self.change(|basis| {
            Ok(removal(match &before {
                Before::Here(endpoint) => vec![Change::PutEndpoint(endpoint.clone())],
                Before::There => plan::detach(basis, id)?,
                Before::Nowhere => vec![Change::RemoveEndpoint(id.to_owned())],
            }))
        });
        let undone = undone.await;
        let followed = match undone {
            Ok(done) => self.follow(done.picture, "undoing the attach").await,
            Err(error) => Err(error),
        };
        if let Err(error) = followed {
            warn!(endpoint = id, "undoing the attach is not complete: {error}");
        }
    }

    /// Waits for a pass over `picture`, and for what came of the endpoint.
    async fn wired(&self, endpoint: &Endpoint, picture: u64) -> Result<(), Error> {
        let Some(observed) = self.reached(picture).await? else {
            return Err(Error::TimedOut {
                seconds: self.patience().as_secs(),
            });
        };
        let reason = match observed.report.endpoints.get(&endpoint.id) {
            Some(EndpointState::Ready { .. }) => return Ok(()),
            Some(EndpointState::NamespaceGone) => "its network namespace is gone".to_owned(),
            Some(EndpointState::Failed(reason)) => reason.clone(),
            None => "it was detached meanwhile".to_owned(),
        };
        Err(Error::Attach {
            network: endpoint.network.clone(),
            container_id: endpoint.container_id.clone(),
            ifname: endpoint.ifname.clone(),
            reason,
        })
    }
}

/// What an endpoint was before it was attached.
enum Before {
    Nowhere,
    Here(Box<Endpoint>),
    /// Of a node that is not alive. That node does not get it back, but its
    /// container gets its address again.
    There,
}

impl Before {
    fn of(desired: &Desired, id: &str) -> Self {
        match desired.endpoints.get(id) {
            Some(endpoint) => Self::Here(Box::new(endpoint.clone())),
            None if census::find_there(desired, id).is_some() => Self::There,
            None => Self::Nowhere,
        }
    }
}
