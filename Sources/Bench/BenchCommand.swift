import ArgumentParser
import Glibc
import LogStore

/// Measures LogStore beside what the machine itself can do with the same bytes.
@main
struct BenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Measure LogStore, and in the same run the machine's own limit for the same bytes.",
    discussion: """
      A ratio says how much of the limit LogStore reaches; the two take turns, so that a machine that is busy with \
      something else slows both. The limits:
        synced append   pwrite and fdatasync of the same encoded bytes into a file that was written before, by one \
      thread for each writer, each for itself
        buffered append the same without the syncs into a new file, and one fdatasync at the end
        scan            a mapped file of the same frames, every record's and header's checksum, one after the other
        load            the same records at places known beforehand, in a mapped file, with their checksums
        tail            the synced append of one writer; its latency is from the acknowledgement to when it is seen
      Run it from a release build.
      """,
    subcommands: [AppendBench.self, TailBench.self, LoadBench.self, ScanBench.self, AllBench.self, TailReader.self])
}

/// What every workload takes.
struct BenchOptions: ParsableArguments {
  @Option(help: "Bytes of payload of an event.")
  var payload = 256

  @Option(help: "Tasks that append at the same time.")
  var writers = 1

  @Option(help: "Events in one atomic append.")
  var batch = 1

  @Option(help: "synced: each append is durable when it returns. buffered: one flush at the end.")
  var durability = Durability.synced

  @Option(help: "Events in all; each workload has a number of its own that takes some seconds.")
  var events: Int?

  @Flag(help: "Print one JSON object a line.")
  var json = false

  @Option(help: ArgumentHelp("Where the data is written; it is removed afterwards.", valueName: "D"))
  var dir = "bench-data"

  enum Durability: String, ExpressibleByArgument, CaseIterable {
    case synced
    case buffered
  }

  func validate() throws {
    guard (0...Limits.eventBytes).contains(payload) else {
      throw ValidationError("--payload must be 0 to \(Limits.eventBytes)")
    }
    guard (1...10_000).contains(writers) else { throw ValidationError("--writers must be 1 to 10000") }
    guard batch >= 1, EventShape(payloadBytes: payload).frameBytes(batch) <= Limits.frameBytes else {
      throw ValidationError("--batch must be at least 1, and its events at most \(Limits.frameBytes) bytes")
    }
    if let events, events < 1 { throw ValidationError("--events must be at least 1") }
  }

  func reporter() -> Reporter { Reporter(asJSON: json) }
  func directory() throws -> BenchDirectory { try BenchDirectory(in: dir) }
}

struct AppendBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "append", abstract: "Append events.")
  @OptionGroup var options: BenchOptions

  func run() async throws {
    let reporter = options.reporter()
    reporter.begin()
    let workload = AppendWorkload(
      shape: EventShape(payloadBytes: options.payload), writers: options.writers, batch: options.batch,
      isSynced: options.durability == .synced, events: options.events)
    try await workload.run(in: options.directory(), reporter)
  }
}

struct TailBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tail", abstract: "See events as they become durable, in this process and in another.")
  @OptionGroup var options: BenchOptions

  func run() async throws {
    let reporter = options.reporter()
    reporter.begin()
    let workload = TailWorkload(shape: EventShape(payloadBytes: options.payload), events: options.events ?? 2000)
    try await workload.run(in: options.directory(), reporter)
  }
}

struct LoadBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load", abstract: "Read streams of five events, in random order.")
  @OptionGroup var options: BenchOptions

  func run() async throws {
    let reporter = options.reporter()
    reporter.begin()
    let workload = LoadWorkload(shape: EventShape(payloadBytes: options.payload), events: options.events ?? 2_000_000)
    try await workload.run(in: options.directory(), reporter)
  }
}

struct ScanBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "scan", abstract: "Read all events in order.")
  @OptionGroup var options: BenchOptions

  func run() async throws {
    let reporter = options.reporter()
    reporter.begin()
    let workload = ScanWorkload(shape: EventShape(payloadBytes: options.payload), events: options.events ?? 1_000_000)
    try await workload.run(in: options.directory(), reporter)
  }
}

struct AllBench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "all", abstract: "The table of all workloads.")
  @OptionGroup var options: BenchOptions

  func run() async throws {
    let reporter = options.reporter()
    reporter.begin()
    let shape = EventShape(payloadBytes: options.payload)
    for (writers, batch, isSynced) in [(1, 1, true), (64, 1, true), (1, 100, true), (1, 1000, false)] {
      let workload = AppendWorkload(
        shape: shape, writers: writers, batch: batch, isSynced: isSynced, events: options.events)
      try await workload.run(in: options.directory(), reporter)
    }
    try await ScanWorkload(shape: shape, events: options.events ?? 1_000_000).run(in: options.directory(), reporter)
    try await LoadWorkload(shape: shape, events: options.events ?? 2_000_000).run(in: options.directory(), reporter)
    try await TailWorkload(shape: shape, events: min(options.events ?? 2000, 20_000))
      .run(in: options.directory(), reporter)
  }
}

/// A directory for one workload's files, removed when it is done, and also when the program is interrupted.
final class BenchDirectory: Sendable {
  let path: String

  init(in parent: String) throws {
    mkdir(parent, 0o755)
    var template = Array("\(parent)/run.XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else {
      throw BenchError("making a directory in \(parent) failed: \(String(cString: strerror(errno)))")
    }
    path = String(cString: made)
    Cleanup.shared.add(path, parent)
  }

  deinit { Cleanup.shared.remove(path) }

  func file(_ name: String) -> String { "\(path)/\(name)" }
}

/// Something a person has to be told; one line.
struct BenchError: Error, CustomStringConvertible {
  var description: String
  init(_ description: String) { self.description = description }
}
