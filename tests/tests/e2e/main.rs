//! End to end: hosts, daemons and containers as users have them.

mod foreign;
