//! Work on many small things on all processors at once.

use std::thread;

use crate::secret::wipe_stack;

/// Returns what `work` makes of each item, in their order. Fewer than twice `least` items are worked on
/// here, more by as many threads as there are processors, each with at least `least` of them in a row.
pub fn map<T: Sync, R: Send>(items: &[T], least: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let parts = processors.min(items.len() / least.max(1)).max(1);
    let share = items.len().div_ceil(parts).max(1);
    let work = &work;
    let run = |part: &[T]| part.iter().map(work).collect::<Vec<R>>();
    let mut shares = items.chunks(share);
    let own = shares.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = shares
            .map(|part| {
                (
                    part,
                    thread::Builder::new().spawn_scoped(scope, move || {
                        let results = run(part);
                        wipe_stack();
                        results
                    }),
                )
            })
            .collect();
        let mut results = run(own);
        results.reserve(items.len() - own.len());
        for (part, worker) in others {
            let done = worker.ok().and_then(|worker| worker.join().ok());
            // Without a thread, or where it panicked, the work is done here.
            results.extend(done.unwrap_or_else(|| run(part)));
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays() {
        for count in [0, 1, 7, 8, 9, 100, 1001] {
            let items: Vec<usize> = (0..count).collect();
            let expected: Vec<usize> = items.iter().map(|item| item * 3).collect();
            assert_eq!(map(&items, 4, |item| item * 3), expected);
        }
    }
}
