//! What every implementation of [`Storage`](super::Storage) must do.
