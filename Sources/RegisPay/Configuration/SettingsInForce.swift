import Synchronization

/// A setting as a person may see it.
public struct ShownSetting: Sendable, Hashable {
  public var definition: SettingDefinition
  /// nil if it is not set and has no default, and for a secret.
  public var values: [String]?
  /// nil if no source has it, and it has no default.
  public var source: SettingSource?

  /// A secret that some source has.
  public var isHidden: Bool { definition.isSecret && source != nil && source != .builtIn }

  /// All settings, in the order of their definitions.
  ///
  /// - Parameter settings: what the sources say.
  public static func all(_ definitions: [SettingDefinition], _ settings: [Setting]) -> [ShownSetting] {
    let byName = Dictionary(uniqueKeysWithValues: settings.map { ($0.name, $0) })
    return definitions.map { definition in
      if let setting = byName[definition.name] {
        return ShownSetting(
          definition: definition, values: definition.isSecret ? nil : setting.values, source: setting.source)
      }
      switch (definition.kind, definition.defaultValue) {
      case (.flag, _): return ShownSetting(definition: definition, values: ["false"], source: .builtIn)
      case (.value, let value?): return ShownSetting(definition: definition, values: [value], source: .builtIn)
      case (.list, _), (.value, nil): return ShownSetting(definition: definition)
      }
    }
  }
}

/// An environment variable as a person may see it.
public struct ShownVariable: Sendable, Hashable {
  public var name: String
  /// nil for a secret.
  public var value: String?
}

/// What a running server was set to, and by whom: the settings of its start, and those that it has read again since. Safe to use from
/// any thread.
public final class SettingsInForce: Sendable {
  private let settings = Mutex<[ShownSetting]>([])
  /// OpenTelemetry's variables that are set, without secrets.
  public let variables: [ShownVariable]

  public init(_ settings: [ShownSetting] = [], variables: [ShownVariable] = []) {
    self.variables = variables
    current = settings
  }

  public var current: [ShownSetting] {
    get { settings.withLock { $0 } }
    set { settings.withLock { $0 = newValue } }
  }
}
