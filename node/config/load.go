package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// EnvPrefix begins every environment variable that sets something: GOCHAT_TCP__LISTEN
// sets tcp.listen (two underscores stand for the dot).
const EnvPrefix = "GOCHAT_"

// Load reads the configuration: the defaults, then the YAML file at path (empty:
// none), then the environment, then set (dotted names, as flags give them). Unknown
// names are errors. environ is what os.Environ returns.
func Load(path string, environ []string, set map[string]any) (Config, error) {
	k := koanf.New(".")
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
		}
	}
	if err := k.Load(env.Provider(".", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(key, value string) (string, any) {
			name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, EnvPrefix)), "__", ".")
			if reserved[name] {
				return "", nil
			}
			return name, value
		},
	}), nil); err != nil {
		return Config{}, fmt.Errorf("reading the environment: %w", err)
	}
	if err := k.Load(confmap.Provider(set, "."), nil); err != nil {
		return Config{}, fmt.Errorf("reading flags: %w", err)
	}
	cfg := Default()
	if err := unmarshal(k, &cfg); err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration:\n%w", err)
	}
	return cfg, nil
}

// decode sets in cfg what set holds by dotted name.
func decode(cfg *Config, set map[string]any) error {
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(set, "."), nil); err != nil {
		return err
	}
	return unmarshal(k, cfg)
}

// unmarshal sets in cfg what k holds. A name that isn't known is an error.
func unmarshal(k *koanf.Koanf, cfg *Config) error {
	return k.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result:           cfg,
		TagName:          "koanf",
		ErrorUnused:      true,
		WeaklyTypedInput: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToTimeDurationHookFunc(),
			mapstructure.StringToSliceHookFunc(","),
			mapstructure.TextUnmarshallerHookFunc(),
		),
	}})
}

// reserved are environment variables of ours that aren't configuration.
var reserved = map[string]bool{"profile": true, "fault": true, "password": true}

// Print writes c as a commented YAML file that Load reads back.
func Print(w io.Writer, c Config) error {
	var b strings.Builder
	b.WriteString("# GoChat's configuration. Every value may also come from the environment:\n# GOCHAT_TCP__LISTEN sets tcp.listen.\n")
	printStruct(&b, reflect.ValueOf(c), "")
	_, err := io.WriteString(w, b.String())
	return err
}

func printStruct(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		f, val := v.Type().Field(i), v.Field(i)
		fmt.Fprintf(b, "\n%s# %s\n", indent, f.Tag.Get("doc"))
		name := f.Tag.Get("koanf")
		switch {
		case f.Type.Kind() == reflect.Struct:
			fmt.Fprintf(b, "%s%s:\n", indent, name)
			printStruct(b, val, indent+"  ")
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			if val.Len() == 0 {
				fmt.Fprintf(b, "%s%s: []\n", indent, name)
				printExample(b, f.Type.Elem(), indent)
				continue
			}
			fmt.Fprintf(b, "%s%s:\n", indent, name)
			for j := range val.Len() {
				printItem(b, val.Index(j), indent)
			}
		default:
			fmt.Fprintf(b, "%s%s: %s\n", indent, name, scalar(val))
		}
	}
}

// printExample shows, commented out, what an item of an empty list looks like.
func printExample(b *strings.Builder, t reflect.Type, indent string) {
	for i := range t.NumField() {
		dash := "  "
		if i == 0 {
			dash = "- "
		}
		fmt.Fprintf(b, "%s# %s%s: \"\"  # %s\n", indent, dash, t.Field(i).Tag.Get("koanf"), t.Field(i).Tag.Get("doc"))
	}
}

func printItem(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		dash := "  "
		if i == 0 {
			dash = "- "
		}
		fmt.Fprintf(b, "%s  %s%s: %s\n", indent, dash, v.Type().Field(i).Tag.Get("koanf"), scalar(v.Field(i)))
	}
}

func scalar(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case Bytes:
		return x.String()
	case string:
		return fmt.Sprintf("%q", x)
	case []string:
		q := make([]string, len(x))
		for i, s := range x {
			q[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}
