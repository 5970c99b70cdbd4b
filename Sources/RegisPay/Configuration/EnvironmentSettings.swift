import Foundation

/// Reads settings from environment variables, from files that they name, and from systemd's credentials.
public enum EnvironmentSettings {
  public static let prefix = "REGISPAY_"
  /// Names the configuration file.
  public static let fileVariable = "REGISPAY_CONFIG"
  /// Ends the name of a variable that names a file with the value.
  private static let fileSuffix = "_FILE"
  /// Variables that are no settings: the key for commands that are clients of a server.
  private static let others: Set<String> = ["REGISPAY_KEY"]
  /// Begins the names of credentials that are settings.
  private static let credentialPrefix = "regispay."

  static func read(_ environment: [String: String], _ definitions: [SettingDefinition]) -> SettingsFound {
    var found = SettingsFound()
    let byVariable = Dictionary(uniqueKeysWithValues: definitions.map { ($0.variable, $0) })
    for (variable, text) in environment.sorted(by: { $0.key < $1.key })
    where variable.hasPrefix(prefix) && !others.contains(variable) {
      found.add { () throws(SettingsError) in
        if let definition = byVariable[variable] { return try setting(definition, text, .variable(variable)) }
        guard variable.hasSuffix(fileSuffix), let definition = byVariable[String(variable.dropLast(fileSuffix.count))]
        else {
          let hint = environment["REGISPAY_SERVICE_HOST"] == nil ? "" : kubernetesHint
          throw SettingsError(
            .variable(variable), SettingNames.unknown(variable, definitions.map(\.variable)) + hint)
        }
        guard environment[definition.variable] == nil else {
          throw SettingsError(.variable(variable), "\(definition.variable) is set, too; set one of them")
        }
        return try setting(definition, file: text, .variableFile(variable, path: text))
      }
    }
    return found
  }

  /// The files in `$CREDENTIALS_DIRECTORY` whose names are settings, such as `regispay.psp-token`. Other names are for others.
  ///
  /// - Parameter directory: nil if systemd passes no credentials.
  static func credentials(_ directory: String?, _ definitions: [SettingDefinition]) -> SettingsFound {
    guard let directory else { return SettingsFound() }
    let names: [String]
    do {
      names = try FileManager.default.contentsOfDirectory(atPath: directory)
    } catch {
      return SettingsFound(
        mistake: "environment variable CREDENTIALS_DIRECTORY: can't read \(directory): \(error.localizedDescription)")
    }
    var found = SettingsFound()
    let known = Dictionary(uniqueKeysWithValues: definitions.map { (credentialPrefix + $0.name, $0) })
    for name in names.sorted() where name.hasPrefix(credentialPrefix) {
      let source = SettingSource.credential(directory + "/" + name)
      found.add { () throws(SettingsError) in
        guard let definition = known[name] else {
          throw SettingsError(source, SettingNames.unknown(name, known.keys.sorted()))
        }
        return try setting(definition, file: directory + "/" + name, source)
      }
    }
    return found
  }

  /// Without the line break that editors and `echo` put at a file's end.
  private static func setting(
    _ definition: SettingDefinition, file path: String, _ source: SettingSource
  ) throws(SettingsError) -> Setting {
    let bytes: [UInt8]
    do {
      bytes = try SmallFile.readNamed(path)
    } catch {
      throw SettingsError(source, "\(error)")
    }
    guard var text = String(validating: bytes, as: UTF8.self) else {
      throw SettingsError(source, "the file is not UTF-8")
    }
    if text.last?.isNewline == true { text.removeLast() }
    return try setting(definition, text, source)
  }

  private static func setting(
    _ definition: SettingDefinition, _ text: String, _ source: SettingSource
  ) throws(SettingsError) -> Setting {
    let values =
      definition.kind == .list ? text.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) } : [text]
    return try Setting(definition: definition, values: values, source: source).checked()
  }

  /// Kubernetes gives every container variables about the namespace's services: `REGISPAY_PORT=tcp://10.0.0.1:80` for one that is
  /// called regispay.
  public static let kubernetesHint =
    "; Kubernetes sets this for a Service named regispay: set enableServiceLinks: false in the pod's specification"
}
