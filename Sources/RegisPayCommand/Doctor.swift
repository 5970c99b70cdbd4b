import ArgumentParser
import Foundation
import RegisPay

/// `regispay doctor`: what would keep a server from starting, or make it lose data.
struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Check the machine, data directory and settings, and say what to do.",
    // ArgumentParser would take serve, whose options this has, for the command above.
    usage: "regispay doctor [--dir <directory>] [--format <format>] [--backup <directory>] [<settings of serve> ...]",
    discussion: """
      Give it the settings of serve: it reads them from the same places. It can run before the first start, and beside a \
      running server: it takes no lock and changes nothing. To measure the disk, it writes 800 KiB to a file without a name \
      in the data directory, or in the one above if there is none yet. It takes some seconds. Run it as the server's user.

      Exit code 0: no problem (there may be warnings); 1: a problem; 64: wrong usage.
      """)

  enum Format: String, CaseIterable, ExpressibleByArgument {
    case text, json
  }

  @Option(help: "How the result is written: text for people, or json, one object, for programs.")
  var format = Format.text

  @Option(help: ArgumentHelp("The age from which a backup is a problem, such as 15m, 1h or 2d.", valueName: "time"))
  var backupMaxAge = Lifetime(seconds: 15 * 60)

  @OptionGroup(title: "Settings of serve")
  var serve: Serve

  /// Those that are not settings of `serve`, each with one value.
  private static let ownOptions: Set = ["--format", "--backup-max-age"]

  func validate() throws {
    if serve.printConfig { throw ValidationError("--print-config is an option of serve") }
  }

  func run() throws {
    // Whatever is measured may reach a limit of a file's size, and nobody may read the result.
    signal(SIGXFSZ, SIG_IGN)
    signal(SIGPIPE, SIG_IGN)
    let environment = ProcessInfo.processInfo.environment
    let read = ServeConfiguration.reading(
      Self.serveArguments(Array(CommandLine.arguments.dropFirst(2))), environment: environment)
    var settings = self.settings(read.configuration, read.mistakes)
    do {
      settings.options.tracing = try TraceOptions(environment: environment)
      settings.options.logExport = try LogExportOptions(environment: environment)
    } catch {
      settings.mistakes.append("\(error)")
    }
    var diagnosis = Diagnosis(
      settings.options, mistakes: settings.mistakes,
      sources: read.configuration.file.map { "the command line, the environment and \($0)" }
        ?? "the command line and the environment",
      backup: settings.options.backup)
    diagnosis.backupAgeLimit = .seconds(backupMaxAge.seconds)
    let report = diagnosis.run()
    switch format {
    case .text: print(report.text, terminator: "")
    case .json: print(String(decoding: report.json.bytes, as: UTF8.self))
    }
    fflush(nil)
    // A check that hangs has left a thread behind.
    Foundation.exit(report.hasProblem ? 1 : 0)
  }

  /// The server's options by all settings that can be used, and what is wrong with the others.
  private func settings(
    _ configuration: ServeConfiguration, _ mistakes: [String]
  ) -> (options: ServerOptions, mistakes: [String]) {
    ServeConfiguration.$current.withValue(configuration) {
      do {
        let command = try Serve.parse(configuration.arguments)
        do throws(SettingsError) {
          try command.checkTogether()
        } catch {
          return (command.serverOptions, mistakes + error.lines)
        }
        return (command.serverOptions, mistakes)
      } catch {
        // Each setting alone was checked, and so was the command line.
        return (serve.serverOptions, mistakes + [Serve.message(for: error)])
      }
    }
  }

  /// The arguments without this command's own options.
  static func serveArguments(_ arguments: [String]) -> [String] {
    var kept: [String] = []
    var rest = arguments[...]
    while let argument = rest.popFirst() {
      if ownOptions.contains(argument) {
        _ = rest.popFirst()
      } else if !ownOptions.contains(where: { argument.hasPrefix($0 + "=") }) {
        kept.append(argument)
      }
    }
    return kept
  }
}
