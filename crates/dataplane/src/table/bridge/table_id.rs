//! The bridge table.

use crate::nft::TableId;
use crate::table::names;

/// The table: see the module.
pub(in crate::table) const TABLE: TableId = TableId::bridge(names::TABLE);
