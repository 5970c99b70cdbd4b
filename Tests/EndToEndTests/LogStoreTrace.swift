import Foundation
import Testing

/// The system calls of a process, read from a log of strace: enough to say what was on disk at which moment.
///
/// A power cut can't be tried here, and a process that dies loses nothing that it has written: the page cache survives. So
/// the order of the calls shows what otherwise only a power cut would show.
struct SystemCallTrace {
  struct Call {
    /// Places in the log where the call began and where it had returned.
    var start: Int
    var end: Int
    /// Seconds, if the log has them.
    var startTime: Double
    var endTime: Double
    var name: String
    /// The text between the parentheses.
    var arguments: String
    var result: Int
    /// strace made it fail.
    var isInjected: Bool

    /// The path behind a descriptor argument, `3</path>`.
    func path(_ index: Int = 0) -> String? {
      let words = arguments.components(separatedBy: ", ")
      guard index < words.count, let open = words[index].firstIndex(of: "<"), words[index].hasSuffix(">") else {
        return nil
      }
      return String(decoding: hexadecimal(words[index][words[index].index(after: open)...].dropLast()), as: UTF8.self)
    }

    /// The strings among the arguments: paths, or what was written, byte for byte (the log is in hexadecimal).
    var strings: [[UInt8]] {
      var strings: [[UInt8]] = []
      for (index, piece) in arguments.components(separatedBy: "\"").enumerated() where index % 2 == 1 {
        strings.append(hexadecimal(piece[...]))
      }
      return strings
    }
  }

  var calls: [Call] = []
  private var syncs: [String: [Call]] = [:]

  static let calls =
    "?open,openat,pwrite64,?pwritev,?pwritev2,fdatasync,fsync,?rename,renameat,renameat2,?unlink,unlinkat,write,"
    + "ftruncate,fallocate,msync,sync_file_range"

  /// The words before the command, for ``StoreUnderTest/run(_:input:under:killAfter:within:)``.
  static func tracer(log: String, inject: [String] = []) -> [String] {
    [
      "strace", "-f", "-y", "-ttt", "-xx", "-s", "200000", "-e", "signal=none", "-e", "trace=\(calls)", "-o", log,
    ] + inject.flatMap { ["-e", "inject=\($0)"] }
  }

  init(log: String) throws {
    let text = try String(contentsOfFile: log, encoding: .isoLatin1)
    var unfinished: [Substring: (Int, Double, Substring)] = [:]
    for (index, line) in text.split(separator: "\n").enumerated() {
      let words = line.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: true)
      guard words.count == 3, let time = Double(words[1]) else { continue }
      let rest = words[2]
      if rest.hasSuffix(" <unfinished ...>") {
        unfinished[words[0]] = (index, time, rest.dropLast(" <unfinished ...>".count))
      } else if rest.hasPrefix("<... "), let resumed = rest.range(of: " resumed>") {
        guard let (start, startTime, first) = unfinished.removeValue(forKey: words[0]) else { continue }
        add(String(first) + rest[resumed.upperBound...], start, index, startTime, time)
      } else {
        add(String(rest), index, index, time, time)
      }
    }
  }

  private mutating func add(_ text: String, _ start: Int, _ end: Int, _ startTime: Double, _ endTime: Double) {
    guard let open = text.firstIndex(of: "("), let equals = text.range(of: " = ", options: .backwards),
      let close = text[..<equals.lowerBound].lastIndex(of: ")")
    else { return }
    let result = text[equals.upperBound...].prefix { "-0123456789".contains($0) }
    let call = Call(
      start: start, end: end, startTime: startTime, endTime: endTime, name: String(text[..<open]),
      arguments: String(text[text.index(after: open)..<close]), result: Int(result) ?? -1,
      isInjected: text.hasSuffix("(INJECTED)"))
    calls.append(call)
    if call.name == "fdatasync" || call.name == "fsync", call.result == 0, let path = call.path() {
      syncs[path, default: []].append(call)
    }
  }

  // MARK: What was on disk when

  /// Frames (docs/FORMAT.md) as they were written.
  struct WrittenFrame {
    var path: String
    var firstOffset: UInt64
    var endOffset: UInt64
    var call: Call
  }

  /// Every frame in every write to a segment, in the order of the log.
  var frames: [WrittenFrame] {
    var frames: [WrittenFrame] = []
    for call in calls where call.name.hasPrefix("pwrite") && call.result > 0 {
      guard let path = call.path(), path.hasSuffix(".log") || path.hasSuffix(".tmp") else { continue }
      let bytes = call.strings.flatMap { $0 }
      var at = bytes.starts(with: Array("LSSEGMNT".utf8)) ? 4096 : 0
      while at + 48 <= bytes.count {
        let length = Int(number(bytes, at + 4, 4))
        guard length >= 48, length % 8 == 0, at + length <= bytes.count else { break }
        let first = number(bytes, at + 8, 8)
        frames.append(
          WrittenFrame(path: path, firstOffset: first, endOffset: first + number(bytes, at + 24, 4), call: call))
        at += length
      }
    }
    return frames
  }

  private func number(_ bytes: [UInt8], _ at: Int, _ count: Int) -> UInt64 {
    (0..<count).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) }
  }

  /// Where in the log a sync of a path had returned that began after `place`; nil if none did.
  func syncEnd(of path: String, after place: Int) -> Int? {
    syncs[path]?.filter { $0.start > place }.map(\.end).min()
  }

  /// Renames, with the paths from and to.
  var renames: [(call: Call, from: String, to: String)] {
    calls.filter { $0.name.hasPrefix("rename") && $0.result == 0 }.compactMap { call in
      let paths = call.strings.map { String(decoding: $0, as: UTF8.self) }
      return paths.count == 2 ? (call, paths[0], paths[1]) : nil
    }
  }

  /// Every `ok OFFSET` with the write that it was in.
  var acknowledgements: [(offset: UInt64, call: Call)] {
    calls.filter { $0.name == "write" && $0.arguments.hasPrefix("1<") }.flatMap { call in
      String(decoding: call.strings.first ?? [], as: UTF8.self).split(separator: "\n").compactMap { line in
        line.hasPrefix("ok ") ? UInt64(line.dropFirst(3)).map { ($0, call) } : nil
      }
    }
  }
}

/// The bytes of a text that is all `\x6f\x6b`.
private func hexadecimal(_ text: Substring) -> [UInt8] {
  var bytes: [UInt8] = []
  var high: UInt8?
  for character in text.utf8 {
    let digit: UInt8
    switch character {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = character - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = character - UInt8(ascii: "a") + 10
    default:
      high = nil
      continue
    }
    if let first = high {
      bytes.append(first << 4 | digit)
      high = nil
    } else {
      high = digit
    }
  }
  return bytes
}
