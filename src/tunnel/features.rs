//! What a version learned after it was first spoken, as bits of Hello and Welcome: each side counts on what both have.
//! A field that an older peer passes over without harm needs no bit; one that it has to understand does.

/// A session may have another name at its destination, and says which sites feed it.
pub const NAMES: u64 = 1;

/// A control lane carries streams of other rooms beside the control stream.
pub const STREAMS: u64 = 2;

/// A link may take another one's place before that ends.
pub const RENEWALS: u64 = 4;

/// Either side says when its budget for the link is another.
pub const BUDGETS: u64 = 8;

/// A stream that carries much may go on over a lane of its own.
pub const STREAM_LANES: u64 = 16;

/// All that this build has.
pub const FEATURES: u64 = NAMES | STREAMS | RENEWALS | BUDGETS | STREAM_LANES;
