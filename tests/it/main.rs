//! The one integration binary.

#![allow(
    clippy::disallowed_methods,
    reason = "tests prepare and look at the outside themselves"
)]

mod decrypt;
mod diff;
mod encrypt;
mod faults;
mod interop;
mod manifest;
mod placement;
mod process;
mod properties;
mod recipients;
mod status;
mod story;
mod support;
mod tidy;
mod vectors;
