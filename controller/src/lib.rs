//! The controller: keeps one fleet of workers per `ModelFleet`, as large as its load needs.
//!
//! [`crd`] is what a person asks for, [`objects`] what should stand in the cluster for it. Both are
//! plain data.

pub mod crd;
pub mod objects;
