//! The tasks of one transport, so that shutting it down can wait for all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Tasks that end together.
#[derive(Debug)]
pub(crate) struct Tasks(Mutex<Option<JoinSet<()>>>);

impl Default for Tasks {
    fn default() -> Self {
        Tasks(Mutex::new(Some(JoinSet::new())))
    }
}

impl Tasks {
    /// Starts `task`, unless all have been ended. It ends when what is given back is dropped.
    pub(crate) fn spawn_scoped(&self, task: impl Future<Output = ()> + Send + 'static) -> Scoped {
        Scoped(self.start(task))
    }

    /// Starts `task`, unless all have been ended.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.start(task);
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = tasks.as_mut()?;
        while tasks.try_join_next().is_some() {}
        Some(tasks.spawn(task))
    }

    fn take(&self) -> Option<JoinSet<()>> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.take()
    }

    /// Ends all tasks, each where it next waits, without waiting for that.
    pub(crate) fn abort(&self) {
        drop(self.take());
    }

    /// Ends all tasks, and returns when they have ended.
    pub(crate) async fn shutdown(&self) {
        if let Some(mut tasks) = self.take() {
            tasks.shutdown().await;
        }
    }
}

/// Ends its task when dropped.
#[derive(Debug)]
pub(crate) struct Scoped(Option<AbortHandle>);

impl Drop for Scoped {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Tokio for `quinn`, with a record of what it has started: its tasks own the socket, and the
/// port is free only when they have ended.
#[derive(Debug)]
pub(crate) struct CountedRuntime(mpsc::Sender<()>);

/// Resolves when the tasks of a [`CountedRuntime`] have ended.
#[derive(Debug)]
pub(crate) struct AllEnded(mpsc::Receiver<()>);

impl CountedRuntime {
    pub(crate) fn new() -> (Arc<Self>, AllEnded) {
        let (running, ended) = mpsc::channel(1);
        (Arc::new(CountedRuntime(running)), AllEnded(ended))
    }
}

impl AllEnded {
    pub(crate) async fn wait(mut self) {
        while self.0.recv().await.is_some() {}
    }
}

impl Runtime for CountedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let running = self.0.clone();
        tokio::spawn(async move {
            task.await;
            drop(running);
        });
    }

    fn wrap_udp_socket(
        &self,
        socket: std::net::UdpSocket,
    ) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
