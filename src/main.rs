//! The process edge: real surroundings in, exit code out.

use std::io::Write;
use std::process::ExitCode;

use secret_files::cli;
use secret_files::os::{Env, process};
use secret_files::secret;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is given back: libraries hold copies of values in buffers of their own.
#[cfg(not(target_env = "musl"))]
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

/// As above, above an allocator that is faster than musl's.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: ZeroAlloc<mimalloc::MiMalloc> = ZeroAlloc(mimalloc::MiMalloc);

fn main() -> ExitCode {
    process::protect_memory();
    process::raise_file_limit();
    // The working directory may have been removed under us: nothing can be named relative to it.
    let env = match Env::of_process() {
        Ok(env) => env,
        Err(error) => {
            drop(writeln!(
                std::io::stderr(),
                "error: the working directory cannot be found: {error}\n  help: `cd` to a folder that exists"
            ));
            return ExitCode::from(2);
        }
    };
    // What panics was undone where it happened; the message of the panic stands on standard error.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli::run(env)));
    // A stack that is small was not used so deep.
    match process::stack_limit() {
        Some(limit) if limit < 1 << 20 => secret::wiping_behind(|| ()),
        _ => secret::wipe_stack(),
    }
    ended.map_or(ExitCode::from(2), ExitCode::from)
}
