//! Docker: what containers ask for, and what has to be there for them.

pub mod body;
pub mod labels;
pub mod optin;
pub mod rewrite;
pub mod wish;
