//! The client against scripted replicas, of which one may lie, in virtual time.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError};
use quorate_core::crypto::{Admission, Members, Verifier};
use quorate_core::id::ReplicaSet;
use quorate_core::request::{Batch, Operation};

use super::*;
use crate::client::scripted::*;

mod doubt;
mod fast_reads;
mod lines;
mod repeats;
