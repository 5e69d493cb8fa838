//! Limits of the driver, each drawn by itself: what one bounds, another may exceed.

use std::time::Duration;

use quorate_core::replica::Settings;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Draws each limit of the driver from a few values down to the smallest that works; a third of
/// them stay as they are.
pub(crate) fn draw(random: &mut ChaCha8Rng, settings: &mut Settings) {
    vary(random, &mut settings.max_pending, &[1, 2, 7, 64]);
    vary(
        random,
        &mut settings.max_pending_bytes,
        &[1, 200, 2_000, 50_000],
    );
    let unsynced = [1, 300, 3_000, 50_000];
    vary(random, &mut settings.max_unsynced_bytes, &unsynced);
    vary(random, &mut settings.max_read_bytes, &[1, 20, 300]);
    vary(random, &mut settings.max_batch_bytes, &[1, 80, 500, 5_000]);
    let in_flight = [Some(1), Some(2), Some(3), Some(8)];
    vary(random, &mut settings.max_batches_in_flight, &in_flight);
    let retry = [20, 60, 200, 700].map(Duration::from_millis);
    vary(random, &mut settings.retry_after, &retry);
    let patience = [50, 300, 1_000].map(Duration::from_millis);
    vary(random, &mut settings.fetch_patience, &patience);
    let every = [1, 100, 700, 5_000];
    vary(random, &mut settings.snapshot_every_bytes, &every);
}

/// Sets a limit to one of `values`, or leaves it: a third of the time.
pub fn vary<T: Copy>(random: &mut ChaCha8Rng, limit: &mut T, values: &[T]) {
    let drawn = values.get(random.random_range(0..values.len() + values.len() / 2));
    *limit = drawn.copied().unwrap_or(*limit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::collections::BTreeSet;

    #[test]
    fn each_limit_is_drawn_by_itself() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut pairs = BTreeSet::new();
        for _ in 0..400 {
            let mut settings = Settings::default();
            draw(&mut random, &mut settings);
            pairs.insert((settings.max_pending, settings.max_batch_bytes));
        }
        assert_eq!(pairs.len(), 5 * 5, "each with each: {pairs:?}");
    }
}
