/// A connection's current request while it arrives: its body's limits, and the memory that its head and its body take before they are
/// complete. That is noted in the connection table, which bounds it over all connections.
///
/// The server's own calls are not in the table: no client may stop them. A class, since noting may refuse this very request while it
/// is being noted. Used on the connection's event loop only.
final class IncomingRequest {
  var body = IncomingBody()
  /// Bytes that have arrived since a request was complete, and belong to the next head.
  private var headByteCount = 0
  /// Bytes of them that are noted in ``ConnectionTable/unfinishedHeads``.
  private var heldHeadBytes = 0

  var holdsHead: Bool { heldHeadBytes > 0 }

  func receiveHead(_ byteCount: Int) { headByteCount += byteCount }

  func completeHead(of connection: ConnectionTable.Connection?, in table: ConnectionTable) {
    headByteCount = 0
    releaseHead(of: connection, in: table)
  }

  /// The head has not arrived completely with what was read.
  func holdHead(of connection: ConnectionTable.Connection?, in table: ConnectionTable) {
    guard let connection, headByteCount > heldHeadBytes else { return }
    heldHeadBytes = headByteCount.nextPowerOfTwo
    table.unfinishedHeads.set(heldHeadBytes, of: connection)
  }

  /// The body has not arrived completely with what was read.
  func holdBody(of connection: ConnectionTable.Connection?, in table: ConnectionTable) {
    if let connection, let size = body.grownMemory() { table.unfinishedBodies.set(size, of: connection) }
  }

  func releaseBody(of connection: ConnectionTable.Connection?, in table: ConnectionTable) {
    if body.forgetMemory(), let connection { table.unfinishedBodies.set(0, of: connection) }
  }

  /// The request is complete, or its connection ends.
  func release(of connection: ConnectionTable.Connection?, in table: ConnectionTable) {
    releaseHead(of: connection, in: table)
    releaseBody(of: connection, in: table)
  }

  private func releaseHead(of connection: ConnectionTable.Connection?, in table: ConnectionTable) {
    guard let connection, heldHeadBytes > 0 else { return }
    heldHeadBytes = 0
    table.unfinishedHeads.set(0, of: connection)
  }
}
