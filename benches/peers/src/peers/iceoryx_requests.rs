//! iceoryx2's request-response: a request and its one response, both loaned slices.

use std::hint::spin_loop;

use iceoryx2::port::client::Client;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::request_response::PortFactory as Requesting;

use super::iceoryx::node;
use crate::harness::child::{self, Job, Peer};
use crate::harness::message::{Outgoing, assert_echo};
use crate::harness::workload::{RoundTrip, Subject, Trips};
use crate::rows::Work;
use crate::subjects::{Answer, Site};
use crate::transport::Plan;

type Service = Requesting<ipc::Service, [u8], (), [u8], ()>;

struct Requests {
    client: Client<ipc::Service, [u8], (), [u8], ()>,
    message: Outgoing,
    peer: Peer,
    _node: Node<ipc::Service>,
}

impl Requests {
    fn start(plan: &Plan, core: usize) -> Self {
        let node = node(plan);
        let service = service(&node, plan);
        let client = service.client_builder().initial_max_slice_len(plan.bytes).create();
        let client = client.expect("a client");
        let role = format!("{}:{}", ROLE.0, plan.name);
        let peer = Peer::start(&role, core, plan.bytes, &[]);
        while service.dynamic_config().number_of_servers() == 0 {
            spin_loop();
        }
        Self { client, message: Outgoing::new(plan.bytes), peer, _node: node }
    }

    #[inline]
    fn exchange(
        client: &Client<ipc::Service, [u8], (), [u8], ()>,
        message: &[u8],
        take: impl FnOnce(&[u8]),
    ) {
        let request = client.loan_slice_uninit(message.len()).expect("a request");
        let pending = request.write_from_slice(message).send().expect("a server");
        loop {
            if let Some(response) = pending.receive().expect("a server") {
                return take(response.payload());
            }
            spin_loop();
        }
    }
}

impl RoundTrip for Requests {
    fn check(&mut self) {
        assert_echo(self.message.current().len(), |message| {
            let mut answer = Vec::new();
            Self::exchange(&self.client, message, |bytes| answer = bytes.to_vec());
            answer
        });
    }

    #[inline]
    fn round_trip(&mut self) {
        self.message.next();
        let Self { client, message, .. } = self;
        Self::exchange(client, message.current(), |answer| message.confirm(answer));
    }

    fn peer(&self) -> u32 {
        self.peer.id()
    }
}

fn service(node: &Node<ipc::Service>, plan: &Plan) -> Service {
    let name = format!("{}/requests", plan.label());
    let builder = node.service_builder(&name.as_str().try_into().expect("a name"));
    let builder = builder.request_response::<[u8], [u8]>().max_nodes(4);
    builder.max_clients(1).max_servers(1).open_or_create().expect("a service")
}

/// Plays the server.
fn serve(job: Job) {
    let (_, name) = job.role.split_once(':').expect("a role with a name");
    let (name, capacity) = (name.to_owned(), 2 * job.bytes);
    let plan = Plan { name, bytes: job.bytes, capacity, is_asleep: false };
    let node = node(&plan);
    let service = service(&node, &plan);
    let server = service.server_builder().initial_max_slice_len(plan.bytes).create();
    let server = server.expect("a server");
    loop {
        if let Some(request) = server.receive().expect("a client") {
            let message = request.payload();
            let response = request.loan_slice_uninit(message.len()).expect("a response");
            response.write_from_slice(message).send().expect("a client");
        } else {
            spin_loop();
        }
    }
}

/// It has only round trips.
pub fn answer(work: Work, site: &Site) -> Answer {
    match work {
        Work::Trip { bytes, is_asleep: false } => {
            let site = site.clone();
            Answer::Runs(Subject::new(NAME, bytes, 0, move || {
                Trips(Requests::start(&site.plan(work, false, 0), site.core))
            }))
        }
        _ => Answer::Absent,
    }
}

pub const NAME: &str = "iceoryx2-requests";
pub const ROLE: child::Role = ("iceoryx-requests", serve);
