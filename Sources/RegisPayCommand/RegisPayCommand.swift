import ArgumentParser
import Foundation
import LogStore
import RegisPay

@main
struct RegisPayCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "regispay", abstract: "An event-driven payment server on one durable log.",
    version: LogStore.version,
    subcommands: [
      Serve.self, RunWorker.self, RunSimulator.self, Keys.self, Load.self, Parked.self, Unknown.self, Backup.self,
      Restore.self,
      Doctor.self,
    ])

  static func main() async {
    do {
      try checkText()
    } catch {
      refuse(error)
    }
    let arguments = Array(CommandLine.arguments.dropFirst())
    // Help is there whatever the sources of settings say.
    guard [Serve._commandName, RunWorker._commandName].contains(arguments.first),
      Set(arguments).isDisjoint(with: ["-h", "--help", "-help", "--version", "--experimental-dump-help"])
    else { return await main(arguments) }
    do {
      if arguments.first == RunWorker._commandName {
        let given = Array(arguments.dropFirst())
        return await main(
          [RunWorker._commandName]
            + (try RunWorker.arguments(given, environment: ProcessInfo.processInfo.environment)))
      }
      let configuration = try ServeConfiguration(
        Array(arguments.dropFirst()), environment: ProcessInfo.processInfo.environment)
      await ServeConfiguration.$current.withValue(configuration) {
        await main([Serve._commandName] + configuration.arguments)
      }
    } catch {
      refuse(error, by: arguments.first ?? Serve._commandName)
    }
  }

  /// Swift replaces bytes that are no UTF-8, and so would make one name of two.
  private static func checkText() throws(SettingsError) {
    func isText(_ pointer: UnsafeMutablePointer<CChar>?) -> Bool {
      pointer.map { String(validatingCString: $0) != nil } ?? true
    }
    for number in 0..<Int(CommandLine.argc) where !isText(CommandLine.unsafeArgv[number]) {
      throw SettingsError(["argument \(number) (\(CommandLine.arguments[number])) is no UTF-8"])
    }
    var entry = environ
    while let variable = entry.pointee {
      let text = String(cString: variable)
      if text.hasPrefix("REGISPAY_"), !isText(variable) {
        throw SettingsError(["\(text.prefix { $0 != "=" }): its value is no UTF-8"])
      }
      entry += 1
    }
  }

  /// Ends the process as ArgumentParser does for wrong usage.
  static func refuse(_ error: SettingsError, by command: String = Serve._commandName) -> Never {
    for line in error.lines { LogOutput.standardError.write("Error: \(line)\n") }
    LogOutput.standardError.write("  See 'regispay \(command) --help' for more information.\n")
    LogOutput.standardError.flush(seconds: 1)
    Foundation.exit(ExitCode.validationFailure.rawValue)
  }
}
