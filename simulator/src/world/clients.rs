//! Clients and the way between them and replicas.

use bytes::Bytes;
use quorate_core::consensus::ReadError;
use quorate_core::id::ReplicaId;
use quorate_core::protocol::Protocol;
use quorate_core::replica::{Answer, ReadToken};

use super::{Event, World};
use crate::client::{Action, Ask, Client, Told};
use crate::host::Item;
use crate::trace::{Fate, Happening, Party};

impl<P: Protocol> World<P> {
    pub(super) fn begin_clients(&mut self) {
        let count = self.config.clients.max(1);
        let each = self.config.operations.div_ceil(count as u64);
        // A client waits half of the longest wait on average, and operations take time too.
        let idle = self.config.fault_time.as_nanos() as u64 * 3 / 2 / each.max(1);
        let sizes = self.sizes();
        for number in 0..count {
            let mut client = Client::new(number, sizes, each, idle);
            client.signatures = self.config.signatures;
            client.conflicts = self.config.conflicts;
            self.clients.push(client);
            self.queue.schedule(0, Event::Wake(number, 0));
        }
        self.records.processes = count as u64 + self.config.replicas as u64;
        self.unfinished = count;
    }

    /// How many replicas there are, and how many must say the same to be believed.
    fn sizes(&self) -> (usize, usize) {
        (self.n(), P::FAULTS.replies(self.n()))
    }

    /// Clients that show that each replica serves; the others hurry up and insist.
    pub(super) fn begin_probes(&mut self) {
        let connected = ReplicaId::all(self.n()).filter(|r| self.is_connected(*r));
        let connected = connected.collect();
        let clients = self.clients.iter_mut();
        clients.for_each(|client| client.insist(connected));
        for replica in self.served.iter() {
            let number = self.clients.len();
            let mut probe = Client::probe(number, self.sizes(), replica);
            probe.signatures = self.config.signatures;
            probe.conflicts = self.config.conflicts;
            self.clients.push(probe);
            self.unfinished += 1;
            self.after(0, Event::Wake(number, 0));
        }
    }

    pub(super) fn client_wakes(&mut self, number: usize, waiting: u64) {
        let Some(client) = self.clients.get_mut(number) else {
            return;
        };
        if client.waiting != waiting {
            return;
        }
        let action = client.wake(self.now, &mut self.random, &mut self.records);
        self.act(number, action);
    }

    fn act(&mut self, number: usize, action: Action) {
        let waiting = self.clients.get(number).map_or(0, |client| client.waiting);
        match action {
            Action::Send(to, ask, patience) => {
                for to in to.iter() {
                    let delay = self.conditions.client_latency.draw(&mut self.random);
                    self.after(delay, Event::Ask(number, to, ask.clone()));
                }
                self.after(patience, Event::Wake(number, waiting));
            }
            Action::Wait(time) => self.after(time, Event::Wake(number, waiting)),
            Action::Finished => {
                self.unfinished -= 1;
                self.last_finished_at = self.now;
            }
            Action::Nothing => {}
        }
    }

    pub(super) fn ask_arrives(&mut self, number: usize, to: ReplicaId, ask: Ask) {
        let machine = self.asked(to);
        if self.host(machine).replica.is_none() {
            return;
        }
        let (word, what) = match &ask {
            Ask::Request(request) => (request.sequence, "request"),
            Ask::Read(token, _) => (token.0, "read"),
        };
        self.note_client(number, to, true, [14, word], what);
        self.arrive(machine, Item::Ask(ask));
    }

    /// Sends answers on their way.
    pub(super) fn answer(
        &mut self,
        from: ReplicaId,
        answers: Vec<Answer>,
        reads: Vec<(ReadToken, Result<Bytes, ReadError>)>,
        refused: Vec<Told>,
    ) {
        for answer in answers {
            let number = Client::of_session(answer.session);
            let told = Told::Answer(answer.session, answer.sequence, answer.result);
            self.tell(number, from, told);
        }
        for (token, result) in reads {
            self.tell(Client::of_token(token), from, Told::Read(token, result));
        }
        for told in refused {
            let number = match &told {
                Told::Answer(session, ..) => Client::of_session(*session),
                Told::Read(token, _) => Client::of_token(*token),
            };
            self.tell(number, from, told);
        }
    }

    fn tell(&mut self, number: usize, machine: ReplicaId, told: Told) {
        let from = self.member(machine);
        let Some(told) = self.heard(machine, told) else {
            return;
        };
        let delay = self.conditions.client_latency.draw(&mut self.random);
        self.after(delay, Event::Told(number, from, told));
    }

    pub(super) fn told_arrives(&mut self, number: usize, from: ReplicaId, told: &Told) {
        let (word, what) = match told {
            Told::Answer(_, sequence, Ok(_)) => (*sequence, "answer"),
            Told::Read(token, Ok(_)) => (token.0, "value"),
            Told::Answer(_, sequence, Err(_)) => (*sequence, "refusal"),
            Told::Read(token, Err(_)) => (token.0, "refusal"),
        };
        self.note_client(number, from, false, [15, word], what);
        let Some(client) = self.clients.get_mut(number) else {
            return self.script.told(self.now, from, told);
        };
        let action = client.told(self.now, (from, told), &mut self.random, &mut self.records);
        self.act(number, action);
    }

    fn note_client(
        &mut self,
        number: usize,
        replica: ReplicaId,
        asks: bool,
        [word, which]: [u64; 2],
        what: &'static str,
    ) {
        let words = [word, number as u64, u64::from(replica.0), which];
        let sent = self.now;
        self.trace.note(self.now, &words, || {
            let (client, replica) = (Party::Client(number), Party::Replica(replica));
            let (from, to) = match asks {
                true => (client, replica),
                false => (replica, client),
            };
            Happening::Message {
                from,
                to,
                kind: String::from(what),
                text: format!("{what} {}", which & 0xffff_ffff),
                fate: Fate::Arrived { sent },
            }
        });
    }
}
