//! End to end: hosts, daemons and containers as users have them.

mod ageing;
mod coexist;
mod down;
mod faults_damage;
mod faults_host;
mod faults_underlay;
mod flood;
mod foreign;
mod groups;
mod isolation;
mod lifecycle;
mod monitor;
mod moves;
mod policies;
mod privileges;
mod raw;
mod reach;
mod service;
mod site;
mod surface;
mod survival;
mod trace;
mod underlay;
mod unusual;
mod upgrade;
mod wire;
