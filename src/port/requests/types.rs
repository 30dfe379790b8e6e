//! The types of a requester or responder, compared with those of the other end.

use crate::error::{RecvError, TypeMismatch};
use crate::link::archive::Receive;
use crate::link::archive::shape::Shape;
use crate::link::endpoint::Endpoint;
use crate::port::agreement::{self, Agreement};
use crate::port::typed::TypedError;

/// What one end has declared: requests in one direction, replies in the other.
#[derive(Debug)]
pub(crate) struct Types {
    requests: Option<Agreement>,
    replies: Option<Agreement>,
}

impl Types {
    /// Declares the types of the end that calls, or of the one that answers. The port is in halves:
    /// what it was before has withdrawn its types.
    pub(crate) fn declare<Req: Receive, Resp: Receive>(end: &Endpoint, calls: bool) -> Types {
        Types {
            requests: Agreement::of(end, calls, shape_of_requests::<Req>),
            replies: Agreement::of(end, !calls, shape_of_replies::<Resp>),
        }
    }

    /// Whether the other end has declared the same types, or none. Costs two loads.
    #[inline(always)]
    pub(crate) fn are_agreed(&self) -> bool {
        agreement::is_agreed(&self.requests) && agreement::is_agreed(&self.replies)
    }

    /// What differs, if [`are_agreed`](Self::are_agreed) says that something does.
    #[inline(always)]
    pub(crate) fn check(&self) -> Result<(), TypeMismatch> {
        if self.are_agreed() { Ok(()) } else { self.compare() }
    }

    /// Why nothing came. A requester that has found other types here may have closed its port for
    /// that.
    #[cold]
    pub(crate) fn explain(&self, error: RecvError) -> TypedError {
        self.check().map_or_else(TypedError::TypeMismatch, |()| TypedError::Recv(error))
    }

    #[cold]
    #[inline(never)]
    fn compare(&self) -> Result<(), TypeMismatch> {
        agreement::check(&self.requests)?;
        agreement::check(&self.replies)
    }
}

// Each has a trailer behind the value: a typed port of the same type must not read it.

fn shape_of_requests<T: Receive>() -> Option<Shape> {
    Some(Shape::of::<T>()?.in_role("request"))
}

fn shape_of_replies<T: Receive>() -> Option<Shape> {
    Some(Shape::of::<T>()?.in_role("reply"))
}
