//! What the other side may do; deny is the default.
