import ArgumentParser
import CMalloc
import Glibc
import LogStore

/// The `logstore` command. Its calls, output formats and exit codes are a contract that scripts depend on.
struct LogStoreCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "logstore",
    abstract: "Append to, read, follow and check a LogStore: a durable append-only log in one directory.",
    discussion: """
      Fields are separated by tabs; a tab, newline, carriage return or backslash inside one is written \\t, \\n, \\r, \\\\.
      Exit codes: 0 done, 1 it failed (the reason is on standard error), 2 repaired, but files were left \
      out, 3 nothing repaired, because there are several copies to choose from, 64 wrong usage.
      """,
    version: LogStore.version,
    subcommands: [
      AppendCommand.self, DumpCommand.self, TailCommand.self, StatCommand.self, VerifyCommand.self, ReindexCommand.self,
      BackupCommand.self, RestoreCommand.self, RepairCommand.self, DeleteCursorCommand.self,
    ])
}

/// A failure that no other type describes; `message` is one line for a person.
struct CommandFailure: Error {
  var message: String
}

@main
enum Entry {
  static func main() async {
    // A reader that closes our output is an ordinary end, reported by EPIPE and not by a signal.
    signal(SIGPIPE, SIG_IGN)
    // The same for a file that may not grow (ulimit -f), which EFBIG reports.
    signal(SIGXFSZ, SIG_IGN)
    if let limit = tooFewDescriptors() {
      complain(
        "only \(limit) files may be open at a time, and \(descriptorsMin) are needed; raise the limit of open files "
          + "(ulimit -n)")
      exit(1)
    }
    // Return the memory of large payloads to the system when they are freed. By default the threshold adapts up to 32 MiB,
    // and freed memory stays in the arenas of several threads: 500 MiB instead of 80, measured with 8 MiB payloads.
    mallopt(M_MMAP_THRESHOLD, 1 << 20)
    if let argument = firstMalformedArgument() {
      complain("argument \(argument) is not valid UTF-8; send such bytes to `logstore append` on standard input")
      exit(ExitCode.validationFailure.rawValue)
    }
    var command: any ParsableCommand
    do {
      command = try LogStoreCommand.parseAsRoot()
    } catch {
      // Help and wrong usage: the parser knows where each is printed and exits with 0 or 64.
      LogStoreCommand.exit(withError: error)
    }
    do {
      if var asyncCommand = command as? any AsyncParsableCommand {
        try await asyncCommand.run()
      } else {
        try command.run()
      }
    } catch let code as ExitCode {
      exit(code.rawValue)
    } catch let error as OutputError {
      if case .failed(let code) = error {
        complain("writing to standard output failed: \(String(cString: strerror(code))); send it elsewhere")
        exit(1)
      }
      exit(0)
    } catch let error as LogStoreError {
      complain(error.description)
      exit(1)
    } catch let error as CommandFailure {
      complain(error.message)
      exit(1)
    } catch {
      LogStoreCommand.exit(withError: error)
    }
    exit(0)
  }

  /// The most descriptors that a call has open, including those of Swift's runtime, which ends the process without a message
  /// when it gets none.
  private static let descriptorsMin: rlim_t = 24

  /// The limit of open files, if it is too low and can't be raised.
  private static func tooFewDescriptors() -> rlim_t? {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < descriptorsMin else {
      return nil
    }
    let given = limit.rlim_cur
    limit.rlim_cur = min(descriptorsMin, limit.rlim_max)
    guard limit.rlim_cur == descriptorsMin,
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0
    else { return given }
    return nil
  }

  /// Swift repairs arguments that are not UTF-8. Data must not change silently, so they are refused instead.
  private static func firstMalformedArgument() -> Int? {
    for index in 1..<max(1, Int(CommandLine.argc)) {
      guard let argument = CommandLine.unsafeArgv[index] else { return nil }
      if String(validatingCString: argument) == nil { return index }
    }
    return nil
  }
}

/// Writes `logstore: TEXT` to standard error, as one line whatever is in the text.
func complain(_ text: String) {
  printError("logstore: " + text)
}

/// Writes to standard error, as one line whatever is in the text.
func printError(_ text: String) {
  var line: [UInt8] = []
  var text = text
  text.withUTF8 { line.append(escaping: UnsafeRawBufferPointer($0), only: .lineBreaks) }
  line.append(UInt8(ascii: "\n"))
  do throws(OutputError) {
    if Interruption.isCaught { try Interruption.waitForRoom(in: STDERR_FILENO) }
  } catch {
    // A signal came, and nobody reads standard error.
    return
  }
  // One write, so that lines of several processes don't mix. A failure can't be reported anywhere.
  _ = line.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

/// Reports the torn end of the log that was left out, if there is one.
func reportTornTail(_ torn: Damage?) {
  guard let torn else { return }
  complain(
    "note: the end of the log was left out (\(torn.file) @\(torn.position): \(torn.reason))")
}

/// The option that every call has: the store's directory.
struct StoreLocation: ParsableArguments {
  @Option(name: .customLong("dir"), help: ArgumentHelp("The store's directory.", valueName: "D"))
  var directory: String

  func validate() throws {
    if directory.isEmpty { throw ValidationError("--dir must name a directory") }
  }
}

/// Who may read the files that a call creates.
struct NewFileOptions: ParsableArguments {
  @Flag(
    help: ArgumentHelp(
      "Let the group read new files: directories 0750, files 0640.",
      discussion: "Without it only the user can read them: 0700 and 0600. Existing files keep their mode."))
  var groupAccess = false

  var access: StoreAccess { groupAccess ? .group : .owner }
}
