import ArgumentParser
import Glibc
import LogStore

/// From an append's acknowledgement to when a reader that follows has the event: in this process, and in another.
struct TailWorkload {
  var shape: EventShape
  var events: Int
  private static let turns = 5

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let store = try LogStore.open(directory.file("store"))
    let raw = try RawFile(directory.file("raw"), byteCount: 64 << 20)
    let frame = shape.frame(1, first: 0)
    let perTurn = max(1, events / Self.turns)
    for isOtherProcess in [false, true] {
      let name = isOtherProcess ? "tail from another process" : "tail in process"
      let latencies = Latencies()
      var seconds = (store: 0.0, raw: 0.0)
      // One reader for all turns: that is how they are used.
      let first = store.reader.endOffset
      let sights = try await start(
        isOtherProcess, store.reader, directory.file("store"), first, perTurn * (Self.turns + 1))
      var acknowledged: [UInt64] = []
      for turn in 0...Self.turns {
        reporter.progress("\(name): turn \(turn) of \(Self.turns)")
        let storeTime = try await time {
          for number in 0..<perTurn {
            _ = try await store.append(Append([shape.event(number, stream: number % 1000)]))
            acknowledged.append(nowNanoseconds())
          }
        }
        let rawTime = try await time {
          try await onThread {
            for _ in 0..<perTurn {
              try raw.append(frame)
              try raw.sync()
            }
          }
        }
        if turn > 0 {
          seconds.store += storeTime
          seconds.raw += rawTime
        }
      }
      for (seen, acknowledged) in zip(try await sights.value, acknowledged).dropFirst(perTurn) {
        // The reader may be first: both are told at the same moment. Then nobody waited.
        latencies.record(seen > acknowledged ? seen - acknowledged : 0)
      }
      reporter.add(
        Measurement(
          workload: name, system: "logstore", events: perTurn * Self.turns, payloadBytes: shape.payloadBytes,
          writers: 1, batch: 1, seconds: seconds.store, p50: latencies.percentile(50), p99: latencies.percentile(99),
          limit: Double(perTurn * Self.turns) / seconds.raw))
    }
    try await store.close()
  }

  /// Starts the reader and returns when it waits; its value is when it had each event.
  private func start(
    _ isOtherProcess: Bool, _ reader: LogReader, _ path: String, _ first: UInt64, _ count: Int
  ) async throws -> Task<[UInt64], any Error> {
    guard isOtherProcess else { return Task { try await follow(reader, from: first, count: count) } }
    let process = try ReaderProcess(["tail-reader", "--dir", path, "--from", "\(first)", "--count", "\(count)"])
    try await onThread { try process.waitUntilReady() }
    return Task { try await onThread { try process.sights() } }
  }
}

/// Follows the log and notes when it had each event.
func follow(_ reader: LogReader, from first: UInt64, count: Int) async throws -> [UInt64] {
  var sights: [UInt64] = []
  sights.reserveCapacity(count)
  var next = first
  while sights.count < count, try await reader.waitForEvents(at: next) {
    next = try reader.forEach(from: next) { _ in
      sights.append(nowNanoseconds())
      return true
    }
  }
  return sights
}

/// The other process's part of ``TailWorkload``.
struct TailReader: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "tail-reader", shouldDisplay: false)
  @Option var dir: String
  @Option var from: UInt64
  @Option var count: Int

  func run() async throws {
    // The one who started us closes our input when it ends, however it ends.
    startThread {
      var byte: UInt8 = 0
      while read(STDIN_FILENO, &byte, 1) > 0 {}
      _exit(1)
    }
    let reader = try LogReader.open(dir)
    printLine("ready")
    for sight in try await follow(reader, from: from, count: count) { printLine(String(sight)) }
    _exit(0)
  }
}

/// This program started once more, as a reader.
private final class ReaderProcess: Sendable {
  private let pid: pid_t
  private let input: Int32
  private let output: Int32

  init(_ arguments: [String]) throws {
    var inputEnds: [Int32] = [-1, -1]
    var outputEnds: [Int32] = [-1, -1]
    guard pipe(&inputEnds) == 0, pipe(&outputEnds) == 0 else { throw BenchError("pipe failed: \(errno)") }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, inputEnds[0], 0)
    posix_spawn_file_actions_adddup2(&actions, outputEnds[1], 1)
    for end in inputEnds + outputEnds { posix_spawn_file_actions_addclose(&actions, end) }
    var argv = (["bench"] + arguments).map { strdup($0) } + [nil]
    defer { for pointer in argv { free(pointer) } }
    var pid = pid_t()
    let code = posix_spawn(&pid, "/proc/self/exe", &actions, nil, &argv, environ)
    close(inputEnds[0])
    close(outputEnds[1])
    guard code == 0 else { throw BenchError("starting a reader failed: \(String(cString: strerror(code)))") }
    self.pid = pid
    input = inputEnds[1]
    output = outputEnds[0]
  }

  deinit {
    close(input)
    close(output)
    var status: Int32 = 0
    waitpid(pid, &status, 0)
  }

  func waitUntilReady() throws {
    var byte: UInt8 = 0
    repeat {
      guard read(output, &byte, 1) == 1 else { throw BenchError("the reading process ended early") }
    } while byte != UInt8(ascii: "\n")
  }

  func sights() throws -> [UInt64] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = read(output, &chunk, chunk.count)
      guard count > 0 else { break }
      bytes.append(contentsOf: chunk[..<count])
    }
    return bytes.split(separator: UInt8(ascii: "\n")).compactMap { UInt64(String(decoding: $0, as: UTF8.self)) }
  }
}
