//! What surfaces show: the stored objects together with how they stand.

pub use self::{
    endpoints::{EndpointFilter, EndpointView, ListedEndpoint, OtherEndpointView, State},
    networks::NetworkView,
    nodes::NodeView,
    peers::PeerView,
    policies::{NamespaceView, PolicyView},
    status::StatusView,
};

mod endpoints;
mod networks;
mod nodes;
mod peers;
mod policies;
mod status;
