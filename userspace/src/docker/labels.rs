//! Labels by which users say what they want, and by which we find what is ours
//! in Docker again, whatever we have forgotten.

/// The network a container joins.
pub const NETWORK: &str = "vxplane.network";
/// The address it gets there.
pub const IP: &str = "vxplane.ip";
/// The namespace its endpoint is in.
pub const NAMESPACE: &str = "vxplane.namespace";
/// Compose's project, the namespace where none is given.
pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";

/// Marks a network-only container, with the value [`ROLE_NETWORK`].
pub const ROLE: &str = "vxplane.role";
/// The value of [`ROLE`].
pub const ROLE_NETWORK: &str = "network";
/// The same on a network-only container and on the container made for it.
pub const PAIR: &str = "vxplane.pair";
/// The subnet, where that is how the network was named.
pub const SUBNET: &str = "vxplane.subnet";
/// The MAC address asked for.
pub const MAC: &str = "vxplane.mac";
/// Which create request a network-only container was made for: a hash.
pub const REQUEST: &str = "vxplane.request";
/// The name the user's container was to get.
pub const CONTAINER_NAME: &str = "vxplane.name";
