//! The sockets that listen: bound once, before anything slow, and then handed from one process to the next (`succession`).
//!
//! What always holds: a socket that goes to another process is the same socket there, with whoever waits in its queue; none is inherited by a program
//! that this one starts otherwise.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::{Plan, ServeError, succession::SuccessionError};
use crate::config::Config;

/// The word that comes with them.
const PORT: u8 = b'P';

/// How many connections may wait to be accepted; the system's `net.core.somaxconn` bounds it. Past it a client is not refused, but tries again
/// after one, three and seven seconds: a burst that comes while lanes load, or while a process takes over, would take that long to get in.
///
/// No more than that: who waits behind thousands has given up before he is answered. A machine that the load fills lost two to three times as many requests with 4096 (decision 0025).
const BACKLOG: i32 = 1024;

/// One for each protocol that is served.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) http: TcpListener,
    pub(super) grpc: Option<TcpListener>,
}

/// Listens at an address.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // The standard library asks for 128, and cannot be told otherwise.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

impl Ports {
    /// Binds them: a second daemon on one of them is found out at once.
    pub(super) fn bind(plan: &Plan) -> Result<Self, ServeError> {
        let bind = |table, listen| listener(listen).map_err(|source| ServeError::Listen { table, listen, source });
        let http = bind("http", plan.config.http.listen)?;
        Ok(Ports { http, grpc: plan.config.grpc.map(|grpc| bind("grpc", grpc.listen)).transpose()? })
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        1 + usize::from(self.grpc.is_some())
    }

    /// Where sockets that came from another process are not what this configuration asks for: the table, the address that is served (if any), and the one that
    /// is asked for (if any).
    pub(super) fn unlike(&self, config: &Config) -> Vec<(&'static str, Option<SocketAddr>, Option<SocketAddr>)> {
        let is_it = |served: SocketAddr, asked: SocketAddr| {
            // Port 0 was any.
            served.ip() == asked.ip() && (asked.port() == 0 || served.port() == asked.port())
        };
        let tables = [
            ("http", Some(&self.http), Some(config.http.listen)),
            ("grpc", self.grpc.as_ref(), config.grpc.map(|grpc| grpc.listen)),
        ];
        let told = tables.map(|(table, port, asked)| (table, port.and_then(|port| port.local_addr().ok()), asked));
        let same = |served: Option<SocketAddr>, asked: Option<SocketAddr>| match (served, asked) {
            (Some(served), Some(asked)) => is_it(served, asked),
            (served, asked) => served == asked,
        };
        told.into_iter().filter(|&(_, served, asked)| !same(served, asked)).collect()
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
        // An older build may have let fewer wait; if the system refuses now, so be it.
        let mut ports = ports.by_ref().inspect(|port| {
            let _unchanged = rustix::net::listen(port, BACKLOG);
        });
        match ports.next() {
            Some(http) if word == [PORT] => Ok(Ports { http, grpc: ports.next() }),
            Some(_) | None => Err(SuccessionError::Words),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpStream, path::Path, time::Duration};

    use super::*;

    #[test]
    fn sockets_that_another_process_bound_are_held_against_the_configuration() {
        let bound = || listener(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = |port: &TcpListener| port.local_addr().expect("bound");
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml")).expect("it is there");
        let config = |http: &str, grpc: Option<SocketAddr>| {
            let text = text.replace("listen = \"127.0.0.1:8000\"", &format!("listen = \"{http}\""));
            let mut config = Config::parse(&text, Path::new(""), "config.toml").expect("valid");
            config.grpc = grpc.map(|listen| crate::config::Grpc { listen });
            config
        };
        let ports = Ports { http: bound(), grpc: None };
        assert_eq!(ports.count(), 1);
        let http = address(&ports.http);
        for same in ["127.0.0.1:0".to_owned(), http.to_string()] {
            assert_eq!(ports.unlike(&config(&same, None)), [], "{same}");
        }
        let (other, grpc) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        assert_eq!(ports.unlike(&config("127.0.0.1:1", None)), [("http", Some(http), Some(other))]);
        assert_eq!(ports.unlike(&config("127.0.0.1:0", Some(grpc))), [("grpc", None, Some(grpc))], "it is not there");
        let ports = Ports { grpc: Some(bound()), ..ports };
        let served = ports.grpc.as_ref().map(address);
        assert_eq!(ports.count(), 2);
        assert_eq!(ports.unlike(&config("127.0.0.1:0", None)), [("grpc", served, None)], "it is there still");
    }

    #[test]
    fn a_burst_of_clients_waits_to_be_accepted_and_is_not_turned_away() {
        let listener = listener(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let system = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux tells");
        let most = system.trim().parse().expect("a number");
        let burst: Vec<_> =
            (0..300.min(most)).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(900))).collect();
        assert!(burst.iter().all(Result::is_ok), "the first try of each is heard: the second comes after a second");
    }
}
