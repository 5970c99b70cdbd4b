import ArgumentParser
import Foundation
import RegisPay

/// The settings that `regispay serve` has: its options, as ArgumentParser describes them, so that there is no second list of them.
enum SettingDefinitions {
  /// Named before the settings are read.
  static let fileOption = "config"
  private static let commandLineOnly: Set = [fileOption, "print-config", "new-psp", "new-webhooks"]
  private static let secrets: Set = ["broker-password", "notifications-token", "psp-token", "server-key"]
  private static let units: Set = ["bytes", "bytes/second", "hours", "requests/second", "seconds"]
  private static let reloadable: Set = ["allowed-host", "log-level", "rate-limit"]

  /// Those that say how a server runs.
  static let shown = all.filter { !$0.isForCommandLineOnly }

  /// The part of ArgumentParser's description that is used here; see its `ArgumentParserToolInfo`.
  private struct Description: Decodable {
    struct Command: Decodable { var arguments: [Argument] }
    struct Argument: Decodable {
      var kind: String
      var isRepeating: Bool
      var preferredName: Name?
      var defaultValue: String?
      var abstract: String?
      var valueName: String?
    }
    struct Name: Decodable { var name: String }
    var command: Command
  }

  static let all = options(of: Serve.self)

  /// The options of a command.
  static func options(of command: any ParsableCommand.Type) -> [SettingDefinition] {
    do {
      let description = try JSONDecoder().decode(Description.self, from: Data(command._dumpHelp().utf8))
      return description.command.arguments.compactMap(definition)
    } catch {
      // The library's own text, the same at every start: every test of a start would fail.
      fatalError("the description of \(command)'s options can't be read: \(error)")
    }
  }

  private static func definition(_ argument: Description.Argument) -> SettingDefinition? {
    guard let name = argument.preferredName?.name, name != "help", name != "version" else { return nil }
    let kind: SettingDefinition.Kind = argument.kind == "flag" ? .flag : argument.isRepeating ? .list : .value
    return SettingDefinition(
      name, kind, default: argument.defaultValue, summary: argument.abstract ?? "",
      unit: argument.valueName.flatMap { units.contains($0) ? $0 : nil }, isSecret: secrets.contains(name),
      isReloadable: reloadable.contains(name), isForCommandLineOnly: commandLineOnly.contains(name))
  }
}
