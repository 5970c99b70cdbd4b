import GRDB

extension DatabaseError {
  /// Makes what the description of an error needs at its first use. Later the system may refuse the memory, and Foundation ends the
  /// process then: an error must not be the first to need it.
  static func prepareDescription() { _ = DatabaseError(message: "none", sql: "SELECT 1;").description }
}
