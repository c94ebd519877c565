//! The errors that a request for answers may get, for the description of the service. They are the same for every protocol; the
//! body is each protocol's own.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// Status and meaning. `HttpError::status` is where they come from.
const FAULTS: [(&str, &str); 11] = [
    ("400", "The request is at fault; the message names the place."),
    ("401", "The API key is missing or wrong."),
    ("404", "The model or the stored image is unknown."),
    ("408", "The body did not arrive in time."),
    ("413", "The body is larger than the limit."),
    ("415", "The body is of a type that is not read."),
    ("429", "The queue is full; `Retry-After` says when to ask again."),
    ("431", "An id in the headers is longer than 100 characters."),
    ("500", "The model failed; the log says why."),
    ("503", "The model is loading, or the service is stopping; `Retry-After` says when to ask again."),
    ("504", "The answer was not ready in time."),
];

/// All of them, with the body `B`. Name `B` in the protocol's schemas too.
pub(super) struct Faults<B>(PhantomData<B>);

impl<B: ToSchema> IntoResponses for Faults<B> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let body = || ContentBuilder::new().schema(Some(Ref::from_schema_name(B::name()))).build();
        let response = |description: &str| {
            ResponseBuilder::new().description(description).content("application/json", body()).build().into()
        };
        FAULTS.into_iter().map(|(status, description)| (status.to_owned(), response(description))).collect()
    }
}
