import Glibc
import LogStore

/// Why a line is not an event; `err` prints `reason`.
struct LineRefusal: Error {
  var reason: String
  init(_ reason: String) { self.reason = reason }
}

/// `STREAM⇥TYPE⇥PAYLOAD` as bytes.
enum EventLine {
  /// The longest line that can still be within ``Limits``: every byte escaped, and two tabs.
  static let byteLimit = 2 * (2 * Limits.nameBytes + Limits.eventBytes) + 2

  /// Reads one line (without its newline). The payload is the rest of the line, so a raw tab in it is data. A carriage
  /// return before the newline and a byte order mark before the stream come from a text editor and are refused: as data
  /// they would be noticed only when the stream is not found again, or the payload does not compare. Whatever the store
  /// would refuse is refused here, so that one bad line doesn't fail the atomic append around it.
  static func parse(_ line: Slice<UnsafeBufferPointer<UInt8>>) throws(LineRefusal) -> NewEvent {
    if line.last == UInt8(ascii: "\r") {
      throw LineRefusal(
        "the line ends with a carriage return; end lines with a newline alone, or write \\r if it is data")
    }
    if line.starts(with: [0xEF, 0xBB, 0xBF]) {
      throw LineRefusal("the line begins with a byte order mark (BOM); save the file as UTF-8 without it")
    }
    let tab = UInt8(ascii: "\t")
    guard let first = line.firstIndex(ofByte: tab), let second = line[(first + 1)...].firstIndex(ofByte: tab) else {
      throw LineRefusal("expected STREAM, TYPE and PAYLOAD separated by tabs")
    }
    let start = line.startIndex
    let stream = try name("stream", unescape(line[start..<first], lineStart: start))
    let type = try name("type", unescape(line[(first + 1)..<second], lineStart: start))
    let payload = try unescape(line[(second + 1)...], lineStart: start)
    guard payload.count <= Limits.eventBytes else {
      throw LineRefusal("payload is \(payload.count) bytes, the limit is \(Limits.eventBytes)")
    }
    return NewEvent(stream: stream, type: type, payload: payload)
  }

  private static func name(_ what: String, _ bytes: [UInt8]) throws(LineRefusal) -> String {
    guard !bytes.isEmpty else { throw LineRefusal("\(what) is empty") }
    guard bytes.count <= Limits.nameBytes else {
      throw LineRefusal("\(what) is \(bytes.count) bytes, the limit is \(Limits.nameBytes)")
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw LineRefusal("\(what) is not valid UTF-8")
    }
    return text
  }
}

/// Splits a stream of bytes into lines. Holds at most one line, of at most ``EventLine/byteLimit`` bytes.
struct LineSplitter {
  enum Line {
    case bytes(Slice<UnsafeBufferPointer<UInt8>>)
    case tooLong
  }

  private var partial: [UInt8] = []
  private var isSkipping = false

  /// Calls `body` for each line that ends within `chunk`; lines are valid only during the call. Stops early and drops the
  /// rest when `body` returns false.
  mutating func feed(_ chunk: UnsafeBufferPointer<UInt8>, _ body: (Line) -> Bool) {
    var rest = chunk[...]
    while let newline = rest.firstIndex(ofByte: UInt8(ascii: "\n")) {
      let piece = rest[..<newline]
      rest = rest[(newline + 1)...]
      let goesOn: Bool
      if isSkipping {
        isSkipping = false
        goesOn = body(.tooLong)
      } else if partial.isEmpty {
        goesOn = piece.count > EventLine.byteLimit ? body(.tooLong) : body(.bytes(piece))
      } else {
        hold(piece)
        goesOn = finish(body)
      }
      if !goesOn { return }
    }
    hold(rest)
  }

  /// The last line, if the input ended without a newline.
  @discardableResult
  mutating func finish(_ body: (Line) -> Bool) -> Bool {
    if isSkipping {
      isSkipping = false
      return body(.tooLong)
    }
    guard !partial.isEmpty else { return true }
    let goesOn = partial.withUnsafeBufferPointer { body(.bytes($0[...])) }
    // A large line's memory is released; a small one's is reused.
    partial.removeAll(keepingCapacity: partial.count <= 1 << 16)
    return goesOn
  }

  private mutating func hold(_ piece: Slice<UnsafeBufferPointer<UInt8>>) {
    guard !isSkipping, !piece.isEmpty else { return }
    if partial.count + piece.count > EventLine.byteLimit {
      partial = []
      isSkipping = true
    } else {
      partial.append(contentsOf: piece)
    }
  }
}

extension Slice<UnsafeBufferPointer<UInt8>> {
  /// As `firstIndex(of:)`, with `memchr`: every byte of a large payload passes through here.
  func firstIndex(ofByte byte: UInt8) -> Int? {
    let bytes = UnsafeBufferPointer(rebasing: self)
    guard let start = bytes.baseAddress, let found = memchr(start, Int32(byte), bytes.count) else { return nil }
    return startIndex + (UnsafeRawPointer(found) - UnsafeRawPointer(start))
  }
}
