//! The documented ways in which types grow: an old program and a new one go on talking.

use crate::common::receive;
use messageport::{
    AttachError, Connect, ConnectError, Listener, MessageChannel, MessageError, MessagePort,
    TypedError,
};

fn channel() -> (MessagePort, MessagePort) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    (port1, port2)
}

/// An enum of versions, each in a box, so that a longer one moves nothing.
mod versions {
    pub mod v1 {
        #[messageport::message]
        pub struct Order {
            pub id: u64,
        }

        #[messageport::message(shape = "Orders, only appended to")]
        pub enum Orders {
            V1(Box<Order>),
        }
    }

    pub mod v2 {
        pub use super::v1;

        #[messageport::message]
        pub struct Order {
            pub id: u64,
            pub items: Vec<String>,
            pub note: Option<String>,
        }

        #[messageport::message(shape = "Orders, only appended to")]
        pub enum Orders {
            V1(Box<v1::Order>),
            V2(Box<Order>),
        }
    }
}

#[test]
fn an_enum_of_versions_is_appended_to() {
    use versions::{v1, v2};
    let (old, new) = channel();
    let (old, new) = (old.typed::<v1::Orders, v1::Orders>(), new.typed::<v2::Orders, v2::Orders>());
    assert!(old.check_types().is_ok() && new.check_types().is_ok());
    old.post_message(&v1::Orders::V1(Box::new(v1::Order { id: 1 }))).expect("room");
    let v2::Orders::V1(order) = new.recv().expect("an old order").deserialize().expect("owned")
    else {
        panic!("an order of the first version")
    };
    assert_eq!(order.id, 1);
    // The new program answers in the old version, and now and then forgets to.
    let order = v2::Order { id: 2, items: vec!["lamp".into(); 9], note: None };
    new.post_message(&v2::Orders::V2(Box::new(order))).expect("room");
    new.post_message(&v2::Orders::V1(Box::new(v1::Order { id: 3 }))).expect("room");
    let unknown = old.recv().map(drop);
    assert!(
        matches!(unknown, Err(TypedError::Message(MessageError::Invalid { .. }))),
        "{unknown:?}"
    );
    let event = old.recv().expect("an order of the first version");
    let v1::ArchivedOrders::V1(order) = event.data();
    assert_eq!(order.id, 3);
}

/// A field at the end that holds nothing yet, and more later.
mod trailing {
    pub mod v1 {
        #[messageport::message]
        pub struct Order {
            pub id: u64,
            #[messageport(shape = "more, in a box")]
            pub more: Option<Box<More>>,
        }

        #[messageport::message]
        pub struct More;
    }

    pub mod v2 {
        #[messageport::message]
        pub struct Order {
            pub id: u64,
            #[messageport(shape = "more, in a box")]
            pub more: Option<Box<More>>,
        }

        #[messageport::message]
        pub struct More {
            pub note: String,
            pub gift: bool,
        }
    }
}

#[test]
fn optional_fields_are_added_at_the_end() {
    use trailing::{v1, v2};
    let (old, new) = channel();
    let (old, new) = (old.typed::<v1::Order, v1::Order>(), new.typed::<v2::Order, v2::Order>());
    old.post_message(&v1::Order { id: 1, more: None }).expect("room");
    let event = new.recv().expect("an order");
    assert!(event.data().id == 1 && event.data().more.is_none());
    drop(event);
    let more = v2::More { note: "a gift of some length".into(), gift: true };
    new.post_message(&v2::Order { id: 2, more: Some(Box::new(more)) }).expect("room");
    let event = old.recv().expect("an order");
    assert_eq!(event.data().id, 2);
    assert!(event.data().more.is_some());
    drop(event);
    // A program as new as the sender reads all of it.
    let (port, newer) = (old.into_inner(), new);
    let port = port.typed::<v2::Order, v2::Order>();
    let more = v2::More { note: "a note".into(), gift: false };
    newer.post_message(&v2::Order { id: 3, more: Some(Box::new(more)) }).expect("room");
    let event = port.recv().expect("an order");
    assert_eq!(event.data().more.as_ref().expect("more").note, "a note");
}

/// The newer program tries its newest types first.
#[test]
fn a_program_falls_back_to_the_types_of_its_peer() {
    use versions::{v1, v2};
    let (old, new) = channel();
    let old = old.typed::<u64, v1::Order>();
    old.post_message(&v1::Order { id: 1 }).expect("room");
    let new = new.typed::<v2::Order, u64>();
    let error = new.check_types().expect_err("another version");
    assert!(error.difference().contains("field `items: Vec<String>` of `Order` is only here"));
    let new = new.into_inner().typed::<v1::Order, u64>();
    let event = new.recv().expect("nothing was lost");
    new.post_message(&event.data().id.to_native()).expect("room");
    assert_eq!(old.recv().expect("an answer").data().to_native(), 1);
}

/// A number that stands for all messages of a channel is refused before there is a port.
#[test]
fn a_schema_is_refused_at_the_door() {
    let name = format!("growing-{}", std::process::id());
    let builder = MessageChannel::builder().schema(2);
    let listener = Listener::bind_with(&name, builder).expect("a free name");
    let client = std::thread::spawn({
        let name = name.clone();
        move || {
            let old = Connect::new().schema(1).to(&name).map(drop);
            (old, Connect::new().schema(2).to(&name).expect("the right schema"))
        }
    });
    let port = listener.accept().expect("a client");
    let (old, new) = client.join().expect("the client does not panic");
    let is_schema =
        matches!(old, Err(ConnectError::Attach(AttachError::Incompatible { what: "schema", .. })));
    assert!(is_schema, "{old:?}");
    new.post_message(&1u8).expect("room");
    assert_eq!(*receive(&port).data::<u8>().expect("a number"), 1);
}
