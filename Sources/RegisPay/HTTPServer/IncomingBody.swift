import HTTPTypes

/// The body of a connection's current request while it arrives: its limits, and what of it is noted in ``HeldBytes``. Used on the
/// connection's event loop only.
struct IncomingBody {
  /// Parts of one body. Each costs more than a microsecond of the loop's time: 64 KiB in chunks of one byte would cost a tenth of a
  /// second.
  private static let partLimit = 4_096

  /// No route reads the body of a GET or HEAD, and routes that need no key have no other methods. So what a client without a key
  /// sends as a body is never kept.
  private(set) var isDropped = false
  private var byteCount = 0
  private var partCount = 0
  /// Bytes that are noted there.
  private var heldBytes = 0

  /// The request has a body, or may have one.
  static func isAnnounced(by head: HTTPRequest) -> Bool {
    if head.headerFields[.transferEncoding] != nil { return true }
    // The codec has checked that the field is a number.
    guard let length = head.headerFields[.contentLength] else { return false }
    return length.utf8.contains { $0 != UInt8(ascii: "0") }
  }

  mutating func begin(_ head: HTTPRequest) {
    (byteCount, partCount) = (0, 0)
    isDropped = head.method == .get || head.method == .head
  }

  /// Counts a part that has arrived.
  ///
  /// - Throws: 413 for a body that is too large or has too many parts.
  mutating func receive(_ count: Int, limit: Int) throws(Problem) {
    byteCount += count
    partCount += 1
    guard partCount <= Self.partLimit else { throw .chunksTooSmall }
    guard byteCount <= limit else { throw .bodyTooLarge(limit: limit) }
  }

  /// The memory of what has arrived and is not complete, if it has grown. The caller notes it: that may end this very request.
  mutating func grownMemory() -> Int? {
    guard !isDropped, byteCount > heldBytes else { return nil }
    heldBytes = byteCount.nextPowerOfTwo
    return heldBytes
  }

  /// Forgets what was noted.
  ///
  /// - Returns: whether it was anything.
  mutating func forgetMemory() -> Bool {
    defer { heldBytes = 0 }
    return heldBytes > 0
  }
}
