import ArgumentParser
import Foundation
import LogStore
import RegisPay

@main
struct RegisPayCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "regispay", abstract: "An event-driven payment server on one durable log.",
    version: LogStore.version,
    subcommands: [Serve.self, Keys.self, Load.self, Parked.self, Unknown.self, Backup.self, Restore.self, Doctor.self])

  static func main() async {
    let arguments = Array(CommandLine.arguments.dropFirst())
    // Help is there whatever the sources of settings say.
    guard arguments.first == Serve._commandName,
      Set(arguments).isDisjoint(with: ["-h", "--help", "-help", "--version", "--experimental-dump-help"])
    else { return await main(arguments) }
    do {
      let configuration = try ServeConfiguration(
        Array(arguments.dropFirst()), environment: ProcessInfo.processInfo.environment)
      await ServeConfiguration.$current.withValue(configuration) {
        await main([Serve._commandName] + configuration.arguments)
      }
    } catch {
      refuse(error)
    }
  }

  /// Ends the process as ArgumentParser does for wrong usage.
  static func refuse(_ error: SettingsError) -> Never {
    for line in error.lines { LogOutput.standardError.write("Error: \(line)\n") }
    LogOutput.standardError.write("  See 'regispay serve --help' for more information.\n")
    LogOutput.standardError.flush(seconds: 1)
    Foundation.exit(ExitCode.validationFailure.rawValue)
  }
}
