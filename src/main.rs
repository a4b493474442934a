//! The process edge: real surroundings in, exit code out.

use std::process::ExitCode;

use secret_files::cli;
use secret_files::os::{Env, process};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::protect_memory();
    match Env::of_process() {
        Ok(env) => cli::run(env).into(),
        // The working directory was removed under us: nothing can be named relative to it.
        Err(_) => ExitCode::from(2),
    }
}
