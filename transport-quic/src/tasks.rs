//! The tasks of one transport, so that shutting it down can wait for all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
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

/// Tokio for `quinn`, which keeps the tasks that it has started: they own the socket, and the
/// port is free only when they have ended.
#[derive(Debug, Default)]
pub(crate) struct OwnedRuntime(Tasks);

impl OwnedRuntime {
    /// Ends all tasks, whatever they still wait for, and returns when they have ended.
    pub(crate) async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl Runtime for OwnedRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[tokio::test]
    async fn a_shutdown_frees_the_port_of_a_task_that_would_never_end() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let runtime = OwnedRuntime::default();
        runtime.spawn(Box::pin(async move {
            std::future::pending::<()>().await;
            drop(socket);
        }));
        tokio::task::yield_now().await;
        assert!(UdpSocket::bind(address).is_err());
        runtime.shutdown().await;
        UdpSocket::bind(address).unwrap();
    }
}
