//! The Debian package: what is in it, and what installing, upgrading and removing
//! it does to a machine and to what its containers send.

mod contents;
mod machine;
mod stages;
mod units;
