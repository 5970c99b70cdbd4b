import ArgumentParser
import Foundation
import RegisPay

/// The settings of `regispay serve` from all its sources, with the command line's arguments as the most important one.
struct ServeConfiguration: Sendable {
  /// Of the command that runs.
  @TaskLocal static var current: ServeConfiguration?

  /// The arguments after `serve`, as they were given.
  let given: [String]
  let environment: [String: String]
  /// What the other sources say, also on what the command line says.
  private(set) var settings: [Setting]
  /// The configuration file's path, if there is one.
  let file: String?

  /// - Parameter given: the arguments after `serve`.
  /// - Throws: for what no source may say. The command line's own mistakes are left to ArgumentParser.
  init(_ given: [String], environment: [String: String]) throws(SettingsError) {
    let (configuration, mistakes) = Self.reading(given, environment: environment)
    guard mistakes.isEmpty else { throw SettingsError(mistakes) }
    self = configuration
  }

  private init(given: [String], environment: [String: String], settings: [Setting], file: String?) {
    (self.given, self.environment, self.settings, self.file) = (given, environment, settings, file)
  }

  /// Reads the sources as ``init(_:environment:)`` does.
  ///
  /// - Returns: the settings that can be used, and what is wrong with the others: one line for each.
  static func reading(
    _ given: [String], environment: [String: String]
  ) -> (configuration: ServeConfiguration, mistakes: [String]) {
    let fileVariable = EnvironmentSettings.fileVariable
    let file = values(of: SettingDefinitions.fileOption, in: given).last ?? environment[fileVariable]
    let found = Settings.read(
      SettingDefinitions.all, file: file, environment: environment.filter { $0.key != fileVariable })
    let mistakes = found.settings.map(mistake)
    let usable = zip(found.settings, mistakes).filter { $0.1 == nil }.map(\.0)
    return (
      ServeConfiguration(given: given, environment: environment, settings: usable, file: file),
      found.mistakes + mistakes.compactMap { $0 }
    )
  }

  /// The arguments of `serve` that say all that the sources say.
  var arguments: [String] {
    // An option that the command line has as well must not be added to, if it is a list.
    settings.filter { Self.values(of: $0.name, in: given).isEmpty }.flatMap(\.arguments) + given
  }

  /// What is in force for each setting that has no default.
  var inForce: [Setting] {
    let fromCommandLine = SettingDefinitions.all.compactMap { definition -> Setting? in
      let values = Self.values(of: definition.name, in: given)
      guard !values.isEmpty else { return nil }
      return Setting(
        definition: definition, values: definition.kind == .list ? values : values.suffix(1), source: .commandLine)
    }
    let names = Set(fromCommandLine.map(\.name))
    return fromCommandLine + settings.filter { !names.contains($0.name) }
  }

  /// All settings as a person may see them.
  var shown: [ShownSetting] { ShownSetting.all(SettingDefinitions.shown, inForce) }

  /// The settings that are others than in an earlier configuration.
  func changes(from old: ServeConfiguration) -> [SettingDefinition] {
    func values(_ settings: [Setting]) -> [String: [String]] {
      Dictionary(uniqueKeysWithValues: settings.map { ($0.name, $0.values) })
    }
    let (before, after) = (values(old.inForce), values(inForce))
    return SettingDefinitions.all.filter { before[$0.name] != after[$0.name] }
  }

  /// This configuration, but for some settings that are as they were.
  func keeping(_ kept: [SettingDefinition], of old: ServeConfiguration) -> ServeConfiguration {
    var mixed = self
    let names = Set(kept.map(\.name))
    mixed.settings = settings.filter { !names.contains($0.name) } + old.settings.filter { names.contains($0.name) }
    return mixed
  }

  /// The message with the sources of the options that it names, unless they are on the command line.
  func explained(_ message: String) -> String {
    let words = Set(message.split { !$0.isLetter && !$0.isNumber && $0 != "-" })
    let sources = inForce.filter { $0.source != .commandLine && words.contains("--\($0.name)") }
    guard !sources.isEmpty else { return message }
    return message + " (" + sources.map { "--\($0.name): \($0.source)" }.joined(separator: "; ") + ")"
  }

  /// Why a setting alone can't be used, with its source.
  private static func mistake(_ setting: Setting) -> String? {
    do {
      _ = try Serve.parse(setting.arguments)
      return nil
    } catch {
      let message = setting.definition.isSecret ? "\(setting.name) can't be used" : Serve.message(for: error)
      let isKubernetes =
        if case .variable = setting.source { setting.values.first?.hasPrefix("tcp://") == true } else { false }
      return "\(setting.source): \(message)" + (isKubernetes ? EnvironmentSettings.kubernetesHint : "")
    }
  }

  /// What the arguments say about an option; for a flag, `true` for each time it is there.
  private static func values(of name: String, in arguments: [String]) -> [String] {
    let option = "--" + name
    let isFlag = SettingDefinitions.all.contains { $0.name == name && $0.kind == .flag }
    var values: [String] = []
    for (number, argument) in arguments.enumerated() {
      if argument == option {
        if isFlag {
          values.append("true")
        } else if number + 1 < arguments.count {
          values.append(arguments[number + 1])
        }
      } else if argument.hasPrefix(option + "=") {
        values.append(String(argument.dropFirst(option.count + 1)))
      }
    }
    return values
  }
}
