//! What surfaces ask of the daemon.
