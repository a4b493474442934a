//! One program for all targets: the variable `SECRETS_FUZZ_TARGET` names one of `targets.rs`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[path = "../targets.rs"]
mod targets;

fn target() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("SECRETS_FUZZ_TARGET").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|target| target.name == name);
        found
            .unwrap_or_else(|| panic!("SECRETS_FUZZ_TARGET={name}: no such target"))
            .run
    })
}

fuzz_target!(|input: &[u8]| target()(input));
