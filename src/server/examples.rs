//! Examples in the descriptions of several protocols.

/// An image of 8 × 6 pixels, so that an example works when it is posted back.
pub(super) const EXAMPLE_IMAGE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAGCAIAAABxZ0isAAAAFElEQVR4nGPU0NBgwAaYsIrSSQIASXoAhK9MVXgAAAAASUVORK5CYII=";
