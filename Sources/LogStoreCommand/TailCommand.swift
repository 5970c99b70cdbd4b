import ArgumentParser
import LogStore

struct TailCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tail",
    abstract: "Print events as dump does, and continue as they are appended, until interrupted.",
    discussion: """
      Prints an event as soon as it is durable, whichever process appends it. With --cursor it starts at that durable \
      cursor and moves it past events once they are written out: after a crash an event may be printed again, and none is \
      left out. The cursor is part of the store, so this opens the store for writing and fails while another process \
      writes to it. --from then sets where a new cursor starts. Where a repair could not save events, it prints a line \
      `missing FIRST..LAST` to standard error. A signal ends it, even if nobody reads what it prints.

      With --allow-damaged it starts with the sound events of a damaged store, and reports the rest on standard error. It \
      continues behind them if the end of the log is sound; otherwise it ends there with an error.
      """)

  @OptionGroup var location: StoreLocation

  @Option(help: ArgumentHelp("Start at this offset, or at the end.", valueName: "offset|end"))
  var from: Start = .offset(0)

  @Option(help: "Start at this durable cursor, and commit it.")
  var cursor: String?

  @Option(help: "tsv or json, one object a line.")
  var format: RowFormat = .tsv

  @Flag(help: "Start with the sound events of a damaged store; not with --cursor.")
  var allowDamaged = false

  func validate() throws {
    if let cursor { try checkName(cursor, "--cursor") }
    if allowDamaged, cursor != nil {
      throw ValidationError("--cursor writes to the store, so not with --allow-damaged")
    }
  }

  enum Start: ExpressibleByArgument {
    case offset(UInt64)
    case end

    init?(argument: String) {
      if argument == "end" {
        self = .end
      } else {
        guard let offset = UInt64(argument) else { return nil }
        self = .offset(offset)
      }
    }

    func offset(in reader: LogReader) -> UInt64 {
      switch self {
      case .offset(let offset): offset
      case .end: reader.endOffset
      }
    }
  }

  /// Events between two commits of the cursor while it catches up.
  private static let eventsPerCommit: UInt64 = 1000

  func run() async throws {
    // Opening may wait for a writer or a disk, and prints what is sound of a damaged store. Until it is done a signal ends the
    // process.
    let opened = try open()
    let interrupted = try Interruption.descriptor()
    let following = Task { try await follow(opened) }
    let watch = Interruption.watch(interrupted) { following.cancel() }
    try await following.value
    if let failure = watch.failure { throw failure }
  }

  private struct Opened: Sendable {
    var reader: LogReader
    /// With --cursor.
    var store: LogStore?
    /// The first offset to print.
    var start: UInt64
  }

  private func open() throws -> Opened {
    guard let cursor else {
      var start = from
      if allowDamaged, case .offset(let offset) = from {
        start = .offset(try Output().add(eventsOf: DamagedLog(location.directory), from: offset, as: format))
      }
      let reader = try LogReader.open(location.directory)
      reportTornTail(reader.recovery.tornTail)
      return Opened(reader: reader, start: start.offset(in: reader))
    }
    var options = LogStore.Options()
    options.createIfMissing = false
    let store = try LogStore.open(location.directory, options: options)
    reportTornTail(store.recovery.tornTail)
    let start = try store.reader.cursor(cursor) ?? from.offset(in: store.reader)
    return Opened(reader: store.reader, store: store, start: start)
  }

  private func follow(_ opened: Opened) async throws {
    guard let cursor, let store = opened.store else {
      try await follow(opened.reader, from: opened.start, limit: .max) { _ in }
      opened.reader.close()
      return
    }
    do {
      try await follow(store.reader, from: opened.start, limit: Self.eventsPerCommit) { next in
        _ = try await store.append(Append([], cursors: [CursorCommit(name: cursor, checkpoint: next)]))
      }
    } catch {
      // The first error says why.
      try? await store.close()
      throw error
    }
    try await store.close()
  }

  /// Prints and flushes the durable events, then waits for more. Calls `printed` with the next offset after each flush.
  private func follow(
    _ reader: LogReader, from start: UInt64, limit: UInt64, printed: (_ next: UInt64) async throws -> Void
  ) async throws {
    let output = Output()
    var next = start
    while try await reader.waitForEvents(at: next) {
      let first = next
      next = try output.add(eventsOf: reader, from: next, limit: limit, as: format)
      try output.flush()
      reportMissing(reader.gaps, from: first, to: next)
      try await printed(next)
      if Task.isCancelled { return }
    }
  }
}
