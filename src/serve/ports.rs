//! The sockets that listen: bound once, before anything slow, and then handed from one process to the next (`succession`).
//!
//! What always holds: a socket that goes to another process is the same socket there, with whoever waits in its queue; none is inherited by a program
//! that this one starts otherwise.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::{Plan, ServeError, succession::SuccessionError};

/// The word that comes with them.
const PORT: u8 = b'P';

/// One for each protocol that is served.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) http: TcpListener,
    pub(super) grpc: Option<TcpListener>,
}

impl Ports {
    /// Binds them: a second daemon on one of them is found out at once.
    pub(super) fn bind(plan: &Plan) -> Result<Self, ServeError> {
        let bind = |table, listen| {
            let refused = |source| ServeError::Listen { table, listen, source };
            TcpListener::bind(listen).map_err(refused)
        };
        let http = bind("http", plan.config.http.listen)?;
        Ok(Ports { http, grpc: plan.config.grpc.map(|grpc| bind("grpc", grpc.listen)).transpose()? })
    }

    /// The same sockets once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let grpc = self.grpc.as_ref().map(TcpListener::try_clone).transpose()?;
        Ok(Ports { http: self.http.try_clone()?, grpc })
    }

    /// Gives them to the process at the other end.
    pub(super) fn send(&self, socket: &UnixStream) -> Result<(), SuccessionError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let ports: Vec<_> = [Some(&self.http), self.grpc.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        assert!(control.push(SendAncillaryMessage::ScmRights(&ports)), "there is room for two");
        let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&[PORT])], &mut control, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|error| SuccessionError::Silent(error.into()))
    }

    /// Takes them from the process at the other end.
    pub(super) fn receive(socket: &UnixStream) -> Result<Self, SuccessionError> {
        let mut word = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // Not for the programs that this one starts.
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut word)], &mut control, flags);
        received.map_err(|error| SuccessionError::Silent(error.into()))?;
        let rights = |message| if let RecvAncillaryMessage::ScmRights(rights) = message { Some(rights) } else { None };
        let mut ports = control.drain().filter_map(rights).flatten().map(TcpListener::from);
        match ports.next() {
            Some(http) if word == [PORT] => Ok(Ports { http, grpc: ports.next() }),
            Some(_) | None => Err(SuccessionError::Words),
        }
    }
}
