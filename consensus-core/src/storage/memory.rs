//! Storage in memory, which can lose what was not synced.
/// x
#[derive(Debug)]
pub struct MemoryStorage;
/// x
#[derive(Debug)]
pub struct Survival;
