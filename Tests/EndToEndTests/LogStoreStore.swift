import Foundation
import Testing

/// All tests of the `logstore` command, one at a time: they measure times and load the disk.
@Suite(.serialized) struct LogStoreCommandTests {}

/// An event as `dump` prints it, its escapes undone.
struct DumpedEvent: Hashable, Sendable {
  var offset: UInt64
  var stream: [UInt8]
  var version: UInt64
  var type: [UInt8]
  var payload: [UInt8]
}

/// A store in a temporary directory and the command to work on it.
final class StoreUnderTest: Sendable {
  let scratch: TemporaryDirectory
  let path: String

  init(isInMemory: Bool = false) throws {
    scratch = try TemporaryDirectory(isInMemory: isInMemory)
    path = scratch.path + "/store"
  }

  /// A store at a place of its own, in a directory that others use too.
  init(_ path: String, in scratch: TemporaryDirectory) {
    self.scratch = scratch
    self.path = path
  }

  /// The built `logstore`, beside the bundle of these tests.
  static let command: String = {
    // The tests' own executable is the bundle.
    let bundle =
      (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
    let directory = (bundle as NSString).deletingLastPathComponent
    return directory + "/logstore"
  }()

  /// This folder's Support.
  static let support = (#filePath as NSString).deletingLastPathComponent + "/Support"

  /// Starts `logstore VERB --dir STORE …` with pipes.
  func start(_ arguments: String..., under tracer: [String] = []) throws -> LogStoreProcess {
    let words = tracer + [Self.command] + withDirectory(arguments)
    return try LogStoreProcess(words[0], Array(words.dropFirst()), scratch: scratch)
  }

  /// Runs `logstore VERB --dir STORE …` to its end, or kills it with SIGKILL after a time.
  @discardableResult
  func run(
    _ arguments: [String], input: [UInt8] = [], under tracer: [String] = [], killAfter: Duration? = nil,
    within limit: Duration = .seconds(60)
  ) async throws -> Finished {
    let inputFile = scratch.newPath("input")
    try Data(input).write(to: URL(fileURLWithPath: inputFile))
    let words = tracer + [Self.command] + withDirectory(arguments)
    let outputFile = scratch.newPath("output")
    let process = try LogStoreProcess(
      words[0], Array(words.dropFirst()), scratch: scratch, inputFile: inputFile, outputFile: outputFile)
    if let killAfter {
      // A random moment is what this is for; nothing is waited for.
      try await Task.sleep(for: killAfter)
      process.signal(SIGKILL)
    }
    let finished = try await process.end(within: limit)
    try? FileManager.default.removeItem(atPath: inputFile)
    try? FileManager.default.removeItem(atPath: outputFile)
    return finished
  }

  @discardableResult
  func run(_ arguments: String..., input: String = "") async throws -> Finished {
    try await run(arguments, input: Array(input.utf8))
  }

  private func withDirectory(_ arguments: [String]) -> [String] {
    // Segments are written through when they are made; a small store need not wait for 64 MiB.
    let isSized = arguments[0] != "append" || arguments.contains("--segment-size")
    return [arguments[0], "--dir", path] + arguments.dropFirst() + (isSized ? [] : ["--segment-size", "1MiB"])
  }

  /// Appends `count` events of a few streams, with segments of 64 KiB, and closes cleanly.
  func fill(_ count: Int, payloadBytes: Int = 200, from first: Int = 0) async throws {
    let result = try await run(
      ["append", "--segment-size", "64KiB"], input: Self.lines(count, payloadBytes, from: first))
    try #require(result.exitCode == 0, "filling failed: \(result.errors)")
    try #require(result.lines.count == count)
  }

  /// As ``fill(_:payloadBytes:from:)``, but the process is killed when all is acknowledged: there is no clean end.
  /// Events are sent one by one, so that the last ones are in frames of their own.
  func fillAndKill(_ count: Int, payloadBytes: Int = 200, from first: Int = 0) async throws {
    let process = try start("append", "--segment-size", "64KiB")
    for line in Self.lines(count, payloadBytes, from: first).split(separator: UInt8(ascii: "\n")) {
      try await process.send(Array(line) + [UInt8(ascii: "\n")])
      let answer = try await process.line()
      try #require(answer?.hasPrefix("ok ") == true)
    }
    process.signal(SIGKILL)
    _ = try await process.end()
  }

  static func lines(_ count: Int, _ payloadBytes: Int, from first: Int = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    for number in first..<(first + count) {
      let payload = "\(number):" + String(repeating: "x", count: max(0, payloadBytes - 8))
      bytes.append(contentsOf: "s\(number % 7)\tType\(number % 3)\t\(payload)\n".utf8)
    }
    return bytes
  }

  /// All events by `logstore dump`, which has to succeed.
  func dump(_ arguments: String...) async throws -> [DumpedEvent] {
    let result = try await run(["dump"] + arguments)
    try #require(result.exitCode == 0, "dump failed: \(result.errors)")
    return try result.outputLines.map(DumpedEvent.init(line:))
  }

  /// `verify` has nothing to complain about.
  func expectSound(_ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation) async throws {
    let result = try await run(["verify"])
    #expect(
      result.exitCode == 0, comment ?? "verify: \(result.text) \(result.errors)", sourceLocation: sourceLocation)
  }

  // MARK: Files

  func file(_ name: String) -> String { "\(path)/\(name)" }

  func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: path).sorted() }

  /// Segment files, oldest first.
  func segments() throws -> [String] { try files().filter { $0.hasSuffix(".log") } }

  func bytes(_ name: String) throws -> [UInt8] {
    try Array(Data(contentsOf: URL(fileURLWithPath: file(name))))
  }

  func write(_ name: String, _ bytes: [UInt8]) throws {
    try Data(bytes).write(to: URL(fileURLWithPath: file(name)))
  }

  func change(_ name: String, _ body: (inout [UInt8]) -> Void) throws {
    var content = try bytes(name)
    body(&content)
    try write(name, content)
  }

  func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: file(name)) }

  /// The content of every file that matters; `lock` and `tail` may change with every open.
  func content() throws -> [String: [UInt8]] {
    var content: [String: [UInt8]] = [:]
    for name in try files() where name != "lock" && name != "tail" { content[name] = try bytes(name) }
    return content
  }
}

extension DumpedEvent {
  init(line: ArraySlice<UInt8>) throws {
    let fields = line.split(separator: UInt8(ascii: "\t"), maxSplits: 4, omittingEmptySubsequences: false)
    guard fields.count == 5, let offset = UInt64(String(decoding: fields[0], as: UTF8.self)),
      let version = UInt64(String(decoding: fields[2], as: UTF8.self))
    else { throw HarnessError("not a line of dump: \(String(decoding: line, as: UTF8.self))") }
    self.init(
      offset: offset, stream: unescaped(fields[1]), version: version, type: unescaped(fields[3]),
      payload: unescaped(fields[4]))
  }
}

func unescaped(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
  var result: [UInt8] = []
  var iterator = bytes.makeIterator()
  while let byte = iterator.next() {
    guard byte == UInt8(ascii: "\\") else {
      result.append(byte)
      continue
    }
    switch iterator.next() {
    case UInt8(ascii: "t"): result.append(9)
    case UInt8(ascii: "n"): result.append(10)
    case UInt8(ascii: "r"): result.append(13)
    case .some(let other): result.append(other)
    case nil: break
    }
  }
  return result
}

func escaped(_ bytes: [UInt8]) -> [UInt8] {
  bytes.flatMap { byte -> [UInt8] in
    switch byte {
    case 9: Array(#"\t"#.utf8)
    case 10: Array(#"\n"#.utf8)
    case 13: Array(#"\r"#.utf8)
    case UInt8(ascii: "\\"): Array(#"\\"#.utf8)
    default: [byte]
    }
  }
}

/// Random numbers that can be had again: SplitMix64. The seed is printed, and LOGSTORE_TEST_SEED sets it.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(_ label: String) {
    let given = ProcessInfo.processInfo.environment["LOGSTORE_TEST_SEED"].flatMap(UInt64.init)
    state = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
    print("\(label): LOGSTORE_TEST_SEED=\(state)")
  }

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
    return value ^ value >> 31
  }
}
