//! The one integration binary.

#![expect(
    clippy::disallowed_methods,
    reason = "tests prepare and look at the outside themselves"
)]
#![expect(
    clippy::unreachable,
    clippy::unwrap_used,
    let_underscore_drop,
    clippy::expect_used,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    reason = "a test may stop at once, and nobody imports it"
)]

mod check;
mod consumers;
mod decrypt;
mod diff;
mod differential;
mod drift;
mod dropin;
mod encrypt;
mod families;
mod faults;
mod groups;
mod guards;
mod hostile;
mod interop;
mod keys;
mod manifest;
mod meanwhile;
mod memory;
mod merge;
mod migrate;
mod model;
mod placement;
mod process;
mod properties;
mod recipients;
mod recovery;
mod rows;
mod schema;
mod status;
mod story;
mod support;
mod sweep;
mod tidy;
mod trees;
mod trouble;
mod vectors;
