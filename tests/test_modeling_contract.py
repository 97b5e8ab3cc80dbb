"""The model, configuration and pipeline tests of the installed transformers, run on `ElmoModel` and its heads."""

import tempfile
import unittest
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch import Tensor

from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoPreTrainedModel,
    ElmoTokenizer,
)
from tests.tiny import SENTENCES, character_ids, tiny_config
from tests.upstream import IS_PINNED, import_upstream, leave_out, names_to_check, results_of

common = import_upstream("test_modeling_common")
pipelines = import_upstream("test_pipeline_mixin")
ConfigTester = import_upstream("test_configuration_common").ConfigTester

_ACCELERATOR = "needs a GPU; on a CPU: `test_offloaded_weights_change_no_value`, `test_a_device_map_changes_no_value`"
_ATTENTION = "the model has no attention"
_CAPTURED = "hidden states are collected by hand: the library's way replaces the last by the mix"
_COMPILED = "of the slow suite; here `test_a_compiled_model_gives_...` and `test_an_exported_model_reads_...`"
_COMPOSITE = "for configurations made of several"
_CONVERSION = "for classes whose checkpoints are renamed while loading"
_DEEPSPEED = "for deepspeed"
_EXPERTS = "for mixtures of experts"
_GENERATION = "the model generates no text"
_HALF_PRECISION = "for models that keep parts in single precision"
_MODALITY = "for models that give features of images, videos, sound or text by methods of their own"
_RESIZING = "resizes a vocabulary of words; here it is the values of a byte and its marks"
_ROPE = "for rotary positions"
_TENSOR_PARALLEL = "for models that may be split within a matrix"
_TIED = "no weights are tied"
_TORCHSCRIPT = "skips itself since transformers pull request 39120"

# Tests that do not apply, with the reason. A test below checks that each of them exists and does not pass: it fails,
# skips itself, or ends without having made a model.
INAPPLICABLE = {
    "test_attention_outputs": _ATTENTION,
    "test_attn_implementation_composite_models": _ATTENTION,
    "test_can_set_attention_dynamically": _ATTENTION,
    "test_can_set_attention_dynamically_composite_model": _COMPOSITE,
    "test_config_attn_implementation_setter": _ATTENTION,
    "test_can_load_with_device_context_manager": _ACCELERATOR,
    "test_can_load_with_global_device_set": _ACCELERATOR,
    "test_cpu_offload": _ACCELERATOR,
    "test_disk_offload_bin": _ACCELERATOR,
    "test_disk_offload_safetensors": _ACCELERATOR,
    "test_eager_matches_sdpa_inference": _ATTENTION,
    "test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break": _ATTENTION,
    "test_flash_attn_2_can_dispatch_composite_models": _ATTENTION,
    "test_flash_attn_2_fp32_ln": _ATTENTION,
    "test_flash_attn_2_from_config": _ATTENTION,
    "test_flash_attn_2_inference_equivalence": _ATTENTION,
    "test_flash_attn_2_inference_equivalence_right_padding": _ATTENTION,
    "test_flash_attn_3_can_dispatch_composite_models": _ATTENTION,
    "test_flash_attn_3_from_config": _ATTENTION,
    "test_flash_attn_3_inference_equivalence": _ATTENTION,
    "test_flash_attn_3_inference_equivalence_right_padding": _ATTENTION,
    "test_flash_attn_kernels_inference_equivalence": _ATTENTION,
    "test_flash_attn_kernels_mps_inference_equivalence": _ATTENTION,
    "test_flex_attention_with_grads": _ATTENTION,
    "test_generation_tester_mixin_inheritance": _GENERATION,
    "test_internal_model_config_and_subconfig_are_same": _COMPOSITE,
    "test_keep_in_fp32_modules": _HALF_PRECISION,
    "test_load_with_mismatched_shapes": "gives a model of 10 characters (2, 8) integers; its companion test applies",
    "test_model_parallelism": _ACCELERATOR,
    "test_num_layers_is_small": "looks at the tester alone",
    "test_resize_embeddings_untied": _RESIZING,
    "test_resize_embeddings_untied_with_deepspeed": _DEEPSPEED,
    "test_resize_embeddings_untied_with_deepspeed_multi_gpu": _DEEPSPEED,
    "test_resize_position_vector_embeddings": "the model has no positions",
    "test_resize_tokens_embeddings": _RESIZING,
    "test_resize_tokens_embeddings_with_deepspeed": _DEEPSPEED,
    "test_resize_tokens_embeddings_with_deepspeed_multi_gpu": _DEEPSPEED,
    "test_sdpa_can_compile_dynamic": _ATTENTION,
    "test_sdpa_can_dispatch_composite_models": _ATTENTION,
    "test_sdpa_can_dispatch_non_composite_models": _ATTENTION,
    "test_sdpa_can_dispatch_on_flash": _ATTENTION,
    "test_sliding_window_mask": _ATTENTION,
    "test_torch_compile_for_training": _COMPILED,
}
if transformers.__version__.startswith("4."):
    INAPPLICABLE |= {
        "test_head_pruning": _ATTENTION,
        "test_head_pruning_integration": _ATTENTION,
        "test_head_pruning_save_load_from_config_init": _ATTENTION,
        "test_head_pruning_save_load_from_pretrained": _ATTENTION,
        "test_model_parallel_equal_results": _ACCELERATOR,
        "test_model_parallelization": _ACCELERATOR,
        "test_multi_gpu_data_parallel_forward": _ACCELERATOR,
        "test_torch_export": _COMPILED,
        "test_torch_fx": "for models that the symbolic tracer of the library lists",
        "test_torch_fx_output_loss": "for models that the symbolic tracer of the library lists",
        "test_torchscript_output_attentions": _TORCHSCRIPT,
        "test_torchscript_output_hidden_state": _TORCHSCRIPT,
        "test_torchscript_simple": _TORCHSCRIPT,
    }
else:
    INAPPLICABLE |= {
        "test_can_capture_specific_layers_hidden_states": _CAPTURED,
        "test_can_load_from_already_mapped_keys": _CONVERSION,
        "test_capture_outputs_decorator": _CAPTURED,
        "test_causal_lm_loss_honors_shift_labels": _GENERATION,
        "test_eager_matches_batched_and_grouped_inference": _EXPERTS,
        "test_encoder_decoder_loss_no_double_shift": _GENERATION,
        "test_flash_attn_4_can_dispatch_composite_models": _ATTENTION,
        "test_flash_attn_4_from_config": _ATTENTION,
        "test_flash_attn_4_inference_equivalence": _ATTENTION,
        "test_flash_attn_4_inference_equivalence_right_padding": _ATTENTION,
        "test_get_audio_features_attentions": _MODALITY,
        "test_get_audio_features_hidden_states": _MODALITY,
        "test_get_audio_features_output": _MODALITY,
        "test_get_image_features_attentions": _MODALITY,
        "test_get_image_features_hidden_states": _MODALITY,
        "test_get_image_features_output": _MODALITY,
        "test_get_image_features_pooler_output": _MODALITY,
        "test_get_text_features_attentions": _MODALITY,
        "test_get_text_features_hidden_states": _MODALITY,
        "test_get_text_features_output": _MODALITY,
        "test_get_video_features_attentions": _MODALITY,
        "test_get_video_features_hidden_states": _MODALITY,
        "test_get_video_features_output": _MODALITY,
        "test_get_video_features_pooler_output": _MODALITY,
        "test_keep_in_fp32_modules_exist": _HALF_PRECISION,
        "test_kernels_can_load_without_crashing": _ATTENTION,
        "test_model_base_model_prefix": _GENERATION,
        "test_model_rope_scaling_frequencies": _ROPE,
        "test_model_rope_scaling_from_config": _ROPE,
        "test_model_rope_with_partial_rotation": _ROPE,
        "test_moe_models_record_router_logits": _EXPERTS,
        "test_output_router_logits_from_config": _EXPERTS,
        "test_resize_embeddings_untied_no_reinit_on_post_init": _RESIZING,
        "test_reverse_loading_mapping": _CONVERSION,
        "test_tied_head_has_a_tp_plan_entry": _TENSOR_PARALLEL,
        "test_tp_plan_matches_params": _TENSOR_PARALLEL,
        "test_vision_axial_rope": _ROPE,
    }

# These pass, but on nothing: they look for something that no model here has.
EMPTY = {
    "test_save_load_keys_to_ignore_on_save": "no weight is left out of a checkpoint",
    "test_tied_weights_keys": _TIED,
}
if transformers.__version__.startswith("4."):
    EMPTY |= {"test_tie_model_weights": _TIED}
else:
    EMPTY |= {"test_format_of_can_record_outputs": _CAPTURED}


class ElmoModelTester:
    """What the tests ask for sizes and inputs."""

    batch_size, seq_length = 4, 11
    num_hidden_layers, hidden_size = 2, 12
    num_choices = 2
    is_training = True

    def get_config(self) -> ElmoConfig:
        # Without dropout, two runs in training mode can be compared. The factor keeps outputs far from 0.
        return tiny_config(dropout=0.0, initializer_factor=2.0, word_vocab_size=20)

    def prepare_config_and_inputs_for_common(self) -> tuple[ElmoConfig, dict[str, Tensor]]:
        """Sentences of different lengths, whose padding both the ids and the mask tell."""
        ids = character_ids(SENTENCES)
        return self.get_config(), {"input_ids": ids, "attention_mask": (ids != 0).any(-1).long()}


class _Contract(common.ModelTesterMixin):
    all_model_classes = (
        ElmoModel,
        ElmoForTokenClassification,
        ElmoForSequenceClassification,
        ElmoForQuestionAnswering,
        ElmoForMultipleChoice,
        ElmoForPreTraining,
    )
    has_attentions = False
    test_resize_embeddings = False
    test_headmasking = False
    test_pruning = False

    def setUp(self) -> None:
        self.model_tester = ElmoModelTester()
        # Many tests choose what to do by the name of the class.
        for names, model_class in (
            (common.MODEL_MAPPING_NAMES, ElmoModel),
            (common.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES, ElmoForMultipleChoice),
            (common.MODEL_FOR_PRETRAINING_MAPPING_NAMES, ElmoForPreTraining),
            (common.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES, ElmoForQuestionAnswering),
            (common.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, ElmoForSequenceClassification),
            (common.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, ElmoForTokenClassification),
        ):
            self.enterContext(mock.patch.dict(names, elmo=model_class.__name__))
        self.num_models = 0
        self.enterContext(mock.patch.object(ElmoPreTrainedModel, "__init__", self._counting_init()))

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        if model_class is ElmoForPreTraining and return_labels:
            words = inputs_dict["attention_mask"]
            return {**inputs_dict, "labels": torch.where(words == 1, 5, -100)}
        if model_class is not ElmoForMultipleChoice:
            return super()._prepare_for_class(inputs_dict, model_class, return_labels)
        # It repeats a matrix for each choice; here ids have one dimension more.
        choices = self.model_tester.num_choices
        inputs = {
            name: torch.stack([value] * choices, dim=1) if isinstance(value, Tensor) else value
            for name, value in inputs_dict.items()
        }
        if return_labels:
            inputs["labels"] = torch.ones(self.model_tester.batch_size, dtype=torch.long)
        return inputs

    def _counting_init(self) -> Any:
        original = ElmoPreTrainedModel.__init__

        @wraps(original)
        def init(model: ElmoPreTrainedModel, *args: Any, **kwargs: Any) -> None:
            self.num_models += 1
            original(model, *args, **kwargs)

        return init

    def tearDown(self) -> None:
        # This one looks at the classes.
        if self._testMethodName != "test_model_main_input_name":
            assert self.num_models > 0, "The test made no model: it belongs into `INAPPLICABLE`."

    def test_can_init_all_missing_weights(self) -> None:
        # It looks for the year of the model in the file of its configuration, and spares models before 2023.
        dated = Path(self.enterContext(tempfile.TemporaryDirectory())) / "configuration_elmo.py"
        dated.write_text("# Copyright 2026\n", encoding="utf-8")
        with mock.patch.object(common.inspect, "getfile", return_value=str(dated)):
            super().test_can_init_all_missing_weights()


# transformers 4.57 indexes with lists, which torch is about to read differently.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning")
class ElmoModelContractTest(_Contract, unittest.TestCase):
    def tearDown(self) -> None:
        # What a newer transformers adds may be for other models.
        if IS_PINNED:
            super().tearDown()


leave_out(ElmoModelContractTest, INAPPLICABLE | EMPTY)


@pytest.mark.parametrize("name", names_to_check(_Contract, INAPPLICABLE))
def test_a_test_left_out_exists_and_does_not_pass(name: str) -> None:
    assert not any(results_of(_Contract, name))


@pytest.mark.parametrize("name", names_to_check(_Contract, EMPTY))
def test_a_test_that_is_empty_exists_and_passes(name: str) -> None:
    # Should it fail one day, it has found something to test.
    assert all(results_of(_Contract, name))


def test_outputs_are_large_enough_for_the_tolerances_of_the_contract() -> None:
    # Its tolerances are 1e-5; an output of that size would pass whatever is computed.
    tester = ElmoModelTester()
    config, inputs = tester.prepare_config_and_inputs_for_common()
    outputs = ElmoModel(config).eval()(**inputs)
    assert outputs.last_hidden_state.shape == (tester.batch_size, tester.seq_length, tester.hidden_size)
    assert outputs.last_hidden_state[outputs.mask].abs().mean() > 0.02


class ElmoConfigContractTest(unittest.TestCase):
    def test_config(self) -> None:
        self.model_tester = ElmoModelTester()
        # It sets and gives them the values 0, 1 and 2, and then the 262 characters 3; the order makes these possible.
        properties = ["num_highway_layers", "num_hidden_layers", "hidden_size"]
        sizes = {"char_embedding_dim": 4, "char_cnn_filters": [[1, 4], [3, 5]], "projection_dim": 6, "cell_clip": None}
        ConfigTester(self, config_class=ElmoConfig, common_properties=properties, **sizes).run_common_tests()


# The question-answering pipeline of transformers 4.57 reads tensors in a way that numpy is about to give up, and its
# test passes examples in a way that transformers is about to.
@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:Passing a list of SQuAD examples:FutureWarning",
)
class ElmoPipelineContractTest(pipelines.PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = {
        "feature-extraction": ElmoModel,
        "text-classification": ElmoForSequenceClassification,
        "token-classification": ElmoForTokenClassification,
        "zero-shot": ElmoForSequenceClassification,
    }
    if transformers.__version__.startswith("4."):
        pipeline_model_mapping["question-answering"] = ElmoForQuestionAnswering

    def setUp(self) -> None:
        # Where it looks for tiny models and their tokenizer, instead of on the Hub.
        hub = Path(self.enterContext(tempfile.TemporaryDirectory()))
        summary = {}
        for model_class in set(self.pipeline_model_mapping.values()):
            folder = hub / "elmo" / model_class.__name__
            model_class(ElmoModelTester().get_config()).save_pretrained(folder)
            ElmoTokenizer().save_pretrained(folder)
            summary[model_class.__name__] = {"tokenizer_classes": ["ElmoTokenizer"], "processor_classes": []}
        self.enterContext(mock.patch.object(pipelines, "TRANSFORMERS_TINY_MODEL_PATH", str(hub)))
        self.enterContext(mock.patch.object(pipelines, "tiny_model_summary", summary))
        tokenizers = mock.Mock(ElmoTokenizer=ElmoTokenizer)
        self.enterContext(mock.patch.object(pipelines, "transformers_module", tokenizers))


# The tests of the other tasks skip themselves.
for _name in dir(ElmoPipelineContractTest):
    _task = _name.removeprefix("test_pipeline_").removesuffix("_fp16").replace("_", "-")
    if _name.startswith("test_pipeline_") and _task not in ElmoPipelineContractTest.pipeline_model_mapping:
        setattr(ElmoPipelineContractTest, _name, None)
