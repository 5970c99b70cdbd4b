import NIOCore

/// Follows the frames in one direction of an HTTP/2 connection (RFC 9113, 4.1) by their headers, whatever pieces they come in.
struct FrameReader {
  enum Kind {
    static let data: UInt8 = 0
    static let headers: UInt8 = 1
    static let pushPromise: UInt8 = 5
    static let goAway: UInt8 = 7
    static let continuation: UInt8 = 9
  }

  static let headerBytes = 9
  /// The flag END_HEADERS.
  private static let endsHeaders: UInt8 = 4

  /// Bytes before the first frame that have not been seen yet.
  private var prefaceLeft: Int
  private var header: [UInt8] = []
  private var payloadLeft = 0
  /// Bytes of the payload that have been seen.
  private var payloadSeen = 0
  /// Bytes of complete frames whose fields go on in the next frame.
  private var blockBytes = 0
  private var isBlockOpen = false

  /// - Parameter prefaceBytes: what comes before the first frame.
  init(prefaceBytes: Int = 0) {
    prefaceLeft = prefaceBytes
    header.reserveCapacity(Self.headerBytes)
  }

  /// Bytes that a receiver must keep because what they belong to is not complete: a part of the preface or of a frame, and frames
  /// whose fields go on in the next. The part of a DATA frame can be used at once, and does not count.
  var unfinishedBytes: Int {
    let isData = header.count == Self.headerBytes && kind == Kind.data
    return blockBytes + (isData ? 0 : header.count + payloadSeen)
  }

  /// Something is not complete, or the preface has not begun.
  var isUnfinished: Bool { prefaceLeft > 0 || isBlockOpen || unfinishedBytes > 0 }

  private var kind: UInt8 { header[3] }

  /// - Parameter onFrame: called with the kind of each frame whose header is complete now.
  mutating func read(_ bytes: ByteBuffer, onFrame: (UInt8) -> Void) {
    bytes.withUnsafeReadableBytes { bytes in
      var index = min(prefaceLeft, bytes.count)
      prefaceLeft -= index
      while index < bytes.count {
        if header.count < Self.headerBytes {
          header.append(bytes[index])
          index += 1
          guard header.count == Self.headerBytes else { continue }
          payloadLeft = Int(header[0]) << 16 | Int(header[1]) << 8 | Int(header[2])
          onFrame(kind)
        } else {
          let count = min(payloadLeft, bytes.count - index)
          index += count
          payloadLeft -= count
          payloadSeen += count
        }
        if payloadLeft == 0 { endFrame() }
      }
    }
  }

  private mutating func endFrame() {
    switch kind {
    case Kind.headers, Kind.pushPromise, Kind.continuation:
      isBlockOpen = header[4] & Self.endsHeaders == 0
      blockBytes = isBlockOpen ? blockBytes + Self.headerBytes + payloadSeen : 0
    default: break
    }
    header.removeAll(keepingCapacity: true)
    payloadSeen = 0
  }
}

/// How many frames a client may send beyond those of its requests' heads: as many as the server's own frames are reason for, some a
/// second, and many at once now and then. A frame of 13 bytes costs as much time as a request's.
struct FrameAllowance {
  private static let capacity = 10_000.0
  private static let perSecond = 200.0
  /// A client may acknowledge each of the server's frames for the stream and for the connection, and more.
  private static let perFrameSent = 4.0

  private var count = capacity
  private var time: NIODeadline?

  mutating func sent() { count = min(Self.capacity, count + Self.perFrameSent) }

  /// - Returns: false if it has sent too many.
  mutating func received(_ frames: Int, now: NIODeadline) -> Bool {
    if let time { count = min(Self.capacity, count + Self.perSecond * Double((now - time).nanoseconds) / 1e9) }
    time = now
    count -= Double(frames)
    return count >= 0
  }
}
