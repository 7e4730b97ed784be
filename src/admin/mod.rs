//! Health, metrics, status: reads what the other rooms publish, changes nothing.
