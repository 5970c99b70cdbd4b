import Hummingbird

/// `GET /api/v1/settings`: what the server was set to, and where each value comes from, without secrets.
struct SettingsRoutes: Sendable {
  let settings: SettingsInForce

  func add(to router: Routes) {
    router.handle("/api/v1/settings", [.get: { _, _ in show() }])
  }

  private func show() -> Response {
    Response(json: [
      "settings": .array(settings.current.map(Self.json)),
      "variables": .array(
        settings.variables.map { variable in
          [
            "name": .string(variable.name), "value": variable.value.map(JSONValue.string) ?? .null,
            "hidden": .bool(variable.value == nil),
          ]
        }),
    ])
  }

  private static func json(_ setting: ShownSetting) -> JSONValue {
    let value: JSONValue =
      switch (setting.values, setting.definition.kind) {
      case (nil, _): .null
      case (let values?, .list): .array(values.map(JSONValue.string))
      case (let values?, .flag): .bool(values == ["true"])
      case (let values?, .value): .string(values.joined())
      }
    return [
      "name": .string(setting.definition.name), "summary": .string(setting.definition.summary), "value": value,
      "unit": setting.definition.unit.map(JSONValue.string) ?? .null, "hidden": .bool(setting.isHidden),
      "source": setting.source.map { .string($0.description) } ?? .null,
      "isDefault": .bool(setting.source == nil || setting.source == .builtIn),
      "reloadable": .bool(setting.definition.isReloadable),
    ]
  }
}
