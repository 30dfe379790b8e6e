//! ipc-channel: its bytes channels, which do not serialise.

use std::any::Any;

use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

use crate::transport::{Invitation, Plan, Receiving, Sending, Transport};

pub struct IpcChannel;

impl Sending for IpcBytesSender {
    fn send(&mut self, message: &[u8]) {
        IpcBytesSender::send(self, message).expect("the other side lives");
    }
}

impl Receiving for IpcBytesReceiver {
    fn poll(&mut self, take: impl FnMut(&[u8])) -> u64 {
        self.sleep(take);
        1
    }

    fn sleep(&mut self, mut take: impl FnMut(&[u8])) {
        take(&self.recv().expect("the other side lives"));
    }
}

/// What the side that joins makes and sends: our ends of both channels.
type Ends = (IpcBytesSender, IpcBytesReceiver);

impl Transport for IpcChannel {
    const NAME: &'static str = "ipc-channel";
    const SPINS: bool = false;
    type Offer = IpcOneShotServer<Ends>;
    type Out = IpcBytesSender;
    type In = IpcBytesReceiver;

    fn offer(_plan: &Plan) -> (Self::Offer, Invitation) {
        let (server, word) = IpcOneShotServer::new().expect("a server");
        (server, Invitation { word, ..Invitation::default() })
    }

    fn accept(_plan: &Plan, server: Self::Offer) -> (Self::Out, Self::In) {
        let (_, ends) = server.accept().expect("a client connects");
        ends
    }

    fn join(_plan: &Plan, invitation: Invitation) -> (Self::Out, Self::In) {
        let (their_out, our_in) = ipc_channel::ipc::bytes_channel().expect("a channel");
        let (our_out, their_in) = ipc_channel::ipc::bytes_channel().expect("a channel");
        let server = IpcSender::connect(invitation.word).expect("the server of the parent");
        server.send((their_out, their_in)).expect("the parent lives");
        (our_out, our_in)
    }

    /// Without the server, which processes that have a channel already do not need.
    fn make(_plan: &Plan) -> Box<dyn Any> {
        let channel = || ipc_channel::ipc::bytes_channel().expect("a channel");
        Box::new((channel(), channel()))
    }
}
